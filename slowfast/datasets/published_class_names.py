"""Class names of public datasets, in the order of the published labels.

Each function takes the path of the training list and the number of classes (MODEL.NUM_CLASSES).
"""

from os.path import dirname, join

from slowfast.datasets.folders import explain_folder_errors, list_folders, list_names
from slowfast.datasets.published_lists import HMDB51_SPLIT_FILE
from slowfast.datasets.text_files import first_existing, numbered_lines, read_json
from slowfast.utils.published_classes import published_classes

_SOMETHING_V1_NAMES = "something-something-v1-labels.csv"
_SOMETHING_V2_NAMES = ("something-something-v2-labels.json", "labels.json")


def read_kinetics_names(list_path: str, num_classes: int) -> list[str]:
    """Return the Kinetics class names in the order of the published labels.

    The heads of published weights have this order, which is not alphabetical.

    Raises:
        ValueError: If no order is published for this number of classes.
    """
    if num_classes not in (400, 600):
        raise ValueError(
            f"{list_path}: MODEL.NUM_CLASSES is {num_classes}, but the label order of Kinetics is "
            "published for 400 and 600 classes only. Set DATA.CLASS_NAMES to a file with one class "
            "name per line, in the order of the labels"
        )
    return published_classes(f"kinetics{num_classes}")


def read_something_v1_names(list_path: str, num_classes: int) -> list[str]:
    """Return the lines of the labels file next to the list."""
    return [line for _, line in numbered_lines(join(dirname(list_path), _SOMETHING_V1_NAMES))]


def read_something_v2_names(list_path: str, num_classes: int) -> list[str]:
    """Return the classes of the labels file next to the list, a JSON object of labels by name."""
    names_path = first_existing([join(dirname(list_path), name) for name in _SOMETHING_V2_NAMES])
    labels = read_json(names_path, expected=dict)

    try:
        names = {int(label): name for name, label in labels.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{names_path}: expected numbers of classes: {error}") from error
    if sorted(names) != list(range(len(labels))):
        raise ValueError(
            f"{names_path}: the numbers of {len(labels)} classes are not 0 to {len(labels) - 1}"
        )
    return [names[label] for label in range(len(names))]


def read_ucf101_names(list_path: str, num_classes: int) -> list[str]:
    """Return the names of classInd.txt next to the list, which has `number name` lines from 1."""
    names_path = join(dirname(list_path), "classInd.txt")
    names: list[str] = []
    for location, line in numbered_lines(names_path):
        number, _, name = line.partition(" ")
        expected = str(len(names) + 1)
        if number != expected or not name:
            raise ValueError(
                f"{names_path} {location} is {line!r}. Expected '{expected} NameOfClass'"
            )
        names.append(name.strip())
    return names


def read_hmdb51_names(list_path: str, num_classes: int) -> list[str]:
    """Return the classes that have lists in the folder, sorted."""
    folder = dirname(list_path)
    with explain_folder_errors(folder):
        names = list_names(folder)
    found = {name.rpartition(HMDB51_SPLIT_FILE)[0] for name in names if HMDB51_SPLIT_FILE in name}
    return sorted(found)


def read_folder_names(list_path: str, num_classes: int) -> list[str]:
    """Return the names of the class folders, sorted."""
    with explain_folder_errors(list_path):
        return list_folders(list_path)
