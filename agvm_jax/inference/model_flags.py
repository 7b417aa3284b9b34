"""The flags by which predict.py, evaluate.py and export.py are told of a model."""

import argparse


def model_flags(description: str) -> argparse.ArgumentParser:
    """Returns a parser with --run, --weights and --config; scripts add their own."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--run", required=True, help="a run folder, or file of weights")
    flags.add_argument("--weights", default="best", help="best, last, average, or file")
    flags.add_argument("--config", help="for a file of weights without a model.json")
    return flags
