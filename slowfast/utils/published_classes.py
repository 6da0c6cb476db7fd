"""Class names of Kinetics in the order of the label ids that released weights use."""

from importlib.resources import files


def published_classes(dataset: str) -> list[str]:
    """Return the class names of a published label table.

    Args:
        dataset: Name of the dataset, such as Kinetics-400. Case and hyphens are ignored.

    Returns:
        Class names in the order of the label ids. Empty if the dataset has no such table.
    """
    table = files("slowfast.utils") / "class_tables" / f"{dataset.replace('-', '').lower()}.txt"
    return table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
