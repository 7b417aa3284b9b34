"""What reads annotations while tests run: pyproject.toml names it for jaxtyping."""

from beartype import BeartypeConf, beartype

# An int is a float, as everywhere in Python's typing.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
