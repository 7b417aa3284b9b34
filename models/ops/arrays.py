"""What an annotation means by an array: jax's, or NumPy's where a caller has one.

Annotations say shapes and types as jaxtyping reads them: `Float32[Array, "N 4"]`. They
are checked while tests run (`--jaxtyping-packages` in pyproject.toml), and one letter
stands for one number wherever a function's signature has it.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
