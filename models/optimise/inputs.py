"""What the user gives: windows with or without answers. Everything wrong with it is a `BadInput` that says what is right."""

import csv
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

# A fifth is held out if there is no other data to test on.
HELD_OUT = 5
FEWEST = 10


class BadInput(Exception):
    """Names the file, what is wrong in it, and what would be right."""


@dataclass(frozen=True)
class Windows:
    """What the model gets, after the features, and what it should answer."""

    # [windows, ...], float32, in the model's shape
    values: np.ndarray
    # [windows], the index of the right class
    labels: np.ndarray | None = None
    # [windows, ...], float32, the right outputs of a model that does not choose between classes
    targets: np.ndarray | None = None

    def __len__(self):
        return len(self.values)

    def pick(self, rows):
        parts = (self.values, self.labels, self.targets)
        return Windows(*(None if part is None else part[rows] for part in parts))

    def split(self):
        """All but the last fifth, and the last fifth, of each class by itself."""
        groups = np.zeros(len(self), int) if self.labels is None else self.labels
        late = np.zeros(len(self), bool)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            late[rows[len(rows) - len(rows) // HELD_OUT :]] = True
        return self.pick(~late), self.pick(late)


def read(path, input_shape, output_shape):
    """Windows from a file for a model with these shapes, the batch left out."""
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give windows as .npz or .csv")
    readers = {".npz": read_npz, ".csv": read_csv}
    if path.suffix not in readers:
        raise BadInput(f"{path}: windows are read from .npz (NumPy) or .csv, not from {path.suffix or 'such a file'}")
    arrays = readers[path.suffix](path)
    values = fit(path, "windows", arrays["windows"], input_shape, "input")
    if len(values) < FEWEST:
        raise BadInput(f"{path}: {len(values)} windows are too few; give {FEWEST} at least, better some hundreds")
    labels, targets = arrays.get("labels"), arrays.get("targets")
    if labels is not None and targets is not None:
        raise BadInput(f"{path}: it has labels and targets; give labels for classes, or targets for other outputs")
    if labels is not None:
        labels = check_labels(path, labels, len(values), int(np.prod(output_shape)))
    if targets is not None:
        targets = fit(path, "targets", targets, output_shape, "output")
        if len(targets) != len(values):
            raise BadInput(f"{path}: {len(targets)} targets for {len(values)} windows; give one for each")
    return Windows(values, labels, targets)


def read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (BadZipFile, ValueError, OSError) as error:
        raise BadInput(f"{path}: cannot be read as .npz: {error}; write it with numpy.savez, without objects") from None
    if "windows" not in arrays:
        names = ", ".join(arrays) or "nothing"
        raise BadInput(f"{path}: has no array `windows`; it has {names}. Write numpy.savez(file, windows=..., labels=...)")
    return arrays


def read_csv(path):
    """A window a line, after a line of names. A column `label` has the classes; the others are the values in order."""
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    if not lines:
        raise BadInput(f"{path}: is empty; the first line names the columns, each other line is a window")
    header, rows = lines[0], lines[1:]
    if all(is_number(name) for name in header):
        raise BadInput(f"{path}:1: is numbers; the first line names the columns, one of which may be `label`")
    for place, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise BadInput(f"{path}:{place}: {len(row)} values for {len(header)} columns")
        wrong = next((value for value in row if not is_number(value)), None)
        if wrong is not None:
            raise BadInput(f"{path}:{place}: {wrong!r} is not a number; labels are the class's index, from 0")
    table = np.array(rows, np.float64).reshape(len(rows), len(header))
    is_label = np.array([name.strip() == "label" for name in header])
    arrays = {"windows": table[:, ~is_label]}
    if is_label.any():
        arrays["labels"] = table[:, is_label.argmax()]
    return arrays


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def fit(path, name, values, shape, end):
    """`values` in the model's shape; dimensions of 1 may differ, and a row of values may be flat."""
    if not np.issubdtype(values.dtype, np.number):
        raise BadInput(f"{path}: `{name}` has the type {values.dtype}; give numbers")
    bare = lambda dimensions: [n for n in dimensions if n != 1]
    if values.ndim < 1 or (bare(values.shape[1:]) != bare(shape) and values.shape[1:] != (int(np.prod(shape)),)):
        needs = ", ".join(["n", *map(str, shape)])
        raise BadInput(f"{path}: `{name}` has the shape {list(values.shape)}; the model's {end} needs [{needs}]")
    values = values.reshape(len(values), *shape).astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
    if len(wrong):
        raise BadInput(f"{path}: window {wrong[0]} of `{name}` has NaN or infinity, as have {len(wrong)} in all")
    return values


def check_labels(path, labels, windows, classes):
    if labels.shape != (windows,):
        raise BadInput(f"{path}: `labels` has the shape {list(labels.shape)}; {windows} windows need [{windows}]")
    if not np.issubdtype(labels.dtype, np.number) or (labels != np.round(labels)).any():
        raise BadInput(f"{path}: `labels` are not all whole numbers; give the index of the class, from 0")
    # One output tells two classes apart.
    highest = max(classes, 2) - 1
    wrong = labels[(labels < 0) | (labels > highest)]
    if len(wrong):
        raise BadInput(f"{path}: label {wrong[0]:g}; the model has {classes} outputs, so labels go from 0 to {highest}")
    return labels.astype(np.int64)


def write_csv(path, windows):
    """In the form that `read_csv` reads."""
    flat = windows.values.reshape(len(windows), -1)
    with open(path, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        labelled = windows.labels is not None
        out.writerow([f"v{i}" for i in range(flat.shape[1])] + ["label"] * labelled)
        for i, row in enumerate(flat):
            out.writerow([str(value) for value in row] + ([windows.labels[i]] if labelled else []))
