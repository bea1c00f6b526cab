"""Quality on the command line: a trained classifier of handwritten digits, and what harms it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import optc as package
from optc.cli import main
from optc.ir.store import save
from tests.cli.conftest import Optc


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Path:
    """A folder: `good.pt2` (8 samples a call), `bad.pt2` (harmed), and `test.npz` with labels."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[:900]), y[:900]).backward()
        optimizer.step()
    _export(model, folder / "good.pt2")
    with torch.no_grad():
        model[0].weight[::3] = 0
    _export(model, folder / "bad.pt2")
    np.savez(folder / "test.npz", input=x[900:].numpy(), labels=labels[900:])
    np.save(folder / "labels.npy", labels[900:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        data = ["--data", str(folder / "test.npz"), "--accuracy-drop", "1%"]
        arguments = ["compile", str(folder / "good.pt2"), "-o", str(folder / "out"), "--no-bench"]
        assert main([*arguments, *data]) == 0
    return folder


def _export(model: torch.nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(8, 64),)), path)


@pytest.fixture
def here(digits: Path, tmp_path: Path) -> Path:
    """The working folder, with copies of the models and the data."""
    for path in digits.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    return tmp_path


def test_a_model_and_its_artifact_are_as_good(optc: Optc, here: Path) -> None:
    data = np.load("test.npz")
    found = []
    for subject in ("good.pt2", "out"):
        result = optc("eval", subject, "--data", "test.npz", "--part", "all")
        assert result.code == 0, result.err
        line = next(line for line in result.out.splitlines() if line.startswith("accuracy, model"))
        found.append(line.split())
        assert str(len(data["labels"])) in line
        assert "Wilson" in line
    assert found[0] == found[1]
    assert float(found[0][2]) > 85


def test_an_artifact_is_judged_on_what_it_has_not_seen(optc: Optc, here: Path) -> None:
    assert "on the held-out part of test.npz" in optc("eval", "out", "--data", "test.npz").out
    assert "on all samples" in optc("eval", "out", "--data", "test.npz", "--samples", "100").out
    assert "on all samples" in optc("eval", "good.pt2", "--data", "test.npz").out


def test_what_is_lost_is_paired(optc: Optc, here: Path) -> None:
    result = optc("eval", "bad.pt2", "--against", "out", "--data", "test.npz")
    assert result.code == 0, result.err
    lost = next(line for line in result.out.splitlines() if line.startswith("lost"))
    assert float(lost.split()[1]) > 1
    assert "paired, Bonett-Price" in lost


def test_without_labels_models_agree(optc: Optc, here: Path) -> None:
    np.savez("bare.npz", input=np.load("test.npz")["input"])
    result = optc("eval", "out", "--against", "good.pt2", "--data", "bare.npz")
    assert "agreement with the original, model" in result.out
    assert "100.00 %" in result.out
    refused = optc("eval", "out", "--data", "bare.npz")
    assert (refused.code, refused.diagnostics) == (1, ["E0749"])
    assert "--against" in refused.err


def test_labels_folders_and_functions_give_the_same(optc: Optc, here: Path) -> None:
    arrays = np.load("test.npz")
    Path("folder").mkdir()
    for name in arrays.files:
        np.save(f"folder/{name}.npy", arrays[name])
    np.savez("bare.npz", input=arrays["input"])
    Path("digit_feed.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    a = np.load('test.npz')\n"
        "    for i in range(0, 897, 50):\n"
        "        yield a['input'][i:i + 50], a['labels'][i:i + 50]\n"
    )
    tables = [
        optc("eval", "good.pt2", "--data", *data).out.splitlines()[:3]
        for data in (
            ["test.npz"],
            ["folder"],
            ["digit_feed:batches"],
            ["bare.npz", "--labels", "labels.npy"],
            ["bare.npz", "--labels", "test.npz:labels"],
        )
    ]
    assert len(tables[0]) == 3
    assert all(table == tables[0] for table in tables)


@pytest.mark.parametrize("metric", ["top5", "f1", "perplexity", "mse", "digit_metric:right"])
def test_every_metric_has_an_interval(optc: Optc, here: Path, metric: str) -> None:
    Path("digit_metric.py").write_text(
        "def right(outputs, labels):\n"
        "    (y,) = outputs.values()\n"
        "    return y.argmax(1) == labels\n"
    )
    labels = ["--labels", "one_hot"] if metric == "mse" else []
    arrays = dict(np.load("test.npz"))
    arrays["one_hot"] = np.eye(10, dtype=np.float32)[arrays["labels"]]
    np.savez("test.npz", **arrays)
    result = optc("eval", "out", "--data", "test.npz", "--metric", metric, *labels)
    assert result.code == 0, result.err
    line = result.out.splitlines()[2]
    assert line.startswith(f"{metric}, model")
    numbers = [float(part) for part in line.split() if part.replace(".", "", 1).isdigit()]
    value, low, high = numbers[:3]
    assert low <= value <= high


def test_the_report_says_how_good_the_artifact_is(here: Path) -> None:
    page = (here / "out" / "report.html").read_text()
    for words in ("Quality on held-out data", "accuracy budget", "holds", "run by the artifact"):
        assert words in page
    data = json.loads((here / "out" / "lock.json").read_text())["data"]
    assert data["calibration"] + data["held_out"] == data["samples"] == 897
    assert abs(data["calibration"] - 270) <= 3
    assert data["source"] == "test.npz"
    assert data["split"] == {"seed": 0, "calibration": 3}


def test_the_closing_table_has_a_verdict(optc: Optc, here: Path) -> None:
    arguments = ("compile", "good.pt2", "--no-bench", "--data", "test.npz", "-o")
    result = optc(*arguments, "a.optc", "--accuracy-drop", "0.5%", "--samples", "60")
    assert (result.code, result.diagnostics) == (0, ["W0754", "W0748"])
    assert "cannot be told with so few samples" in result.out
    with zipfile.ZipFile("a.optc") as archive:
        assert b"cannot be told" in archive.read("report.html")
    bare = optc(*arguments, "b", "--metric", "perplexity")
    assert bare.code == 0
    assert "perplexity" in bare.out
    assert "budget" not in bare.out


def test_another_machines_artifact_is_judged_by_the_reference(optc: Optc, here: Path) -> None:
    arguments = ("compile", "good.pt2", "--no-bench", "--data", "test.npz", "-o", "arm")
    result = optc(*arguments, "--target", "cortex-a76")
    assert result.code == 0, result.err
    assert "the compiled graph in PyTorch" in Path("arm", "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "none.npz"], "E0740", "no such file"),
        (["--data", "renamed.npz"], "E0741", "did you mean inputs"),
        (["--data", "wide.npz"], "E0742", "Nx65"),
        (["--data", "test.npz", "--labels", "short.npy"], "E0744", "100 labels"),
        (["--data", "test.npz", "--labels", "lables"], "E0744", "did you mean labels"),
        (["--data", "wrong.npz"], "E0744", "a label is 11"),
        (["--data", "digit_bad:batches"], "E0743", "digit_bad.py:3"),
        (["--data", "test.npz", "--metric", "acuracy"], "E0745", "did you mean accuracy"),
        (["--data", "test.npz", "--metric", "accuracy@z"], "E0745", "no output 'z'"),
        (["--metric", "accuracy"], "E0703", "--data"),
        ([], "E0703", "--data"),
    ],
)
def test_bad_data_is_one_diagnostic(
    optc: Optc, here: Path, arguments: list[str], code: str, words: str
) -> None:
    arrays = np.load("test.npz")
    x, labels = arrays["input"], arrays["labels"]
    np.savez("renamed.npz", inputs=x, labels=labels)
    np.savez("wide.npz", input=np.zeros((9, 65), np.float32))
    np.savez("wrong.npz", input=x, labels=np.where(labels == 9, 11, labels))
    np.save("short.npy", labels[:100])
    Path("digit_bad.py").write_text("def batches():\n    yield {}\n    raise OSError('gone')\n")
    if code == "E0743":
        Path("digit_bad.py").write_text(
            "import numpy as np\ndef batches():\n    raise OSError('gone')\n"
        )
    before = sorted(Path().iterdir())
    result = optc("eval", "good.pt2", *arguments)
    assert (result.code, result.diagnostics) == (1, [code])
    assert words in result.err
    assert sorted(set(Path().iterdir()) - {Path("__pycache__")}) == before


@pytest.mark.parametrize("drop", ["1", "x", "-1%", "150%"])
def test_a_budget_is_a_share(optc: Optc, here: Path, drop: str) -> None:
    result = optc("compile", "good.pt2", "-o", "o", "--data", "test.npz", "--accuracy-drop", drop)
    assert (result.code, result.diagnostics) == (1, ["E0703"])
    assert "1%" in result.err
    assert not Path("o").exists()


def test_a_budget_needs_data(optc: Optc, here: Path) -> None:
    result = optc("compile", "good.pt2", "-o", "o", "--accuracy-drop", "1%")
    assert (result.code, result.diagnostics) == (1, ["E0703"])
    assert "--data calib.npz" in result.err


def test_mlir_text_is_not_judged(optc: Optc, here: Path) -> None:
    result = optc("compile", "good.pt2", "-o", "o", "--emit", "linalg", "--data", "test.npz")
    assert (result.code, result.diagnostics) == (1, ["E0703"])
    assert "--emit so" in result.err


def test_a_broken_budget_is_an_exit_code_and_the_artifact_is_there(
    optc: Optc, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No pass of this compiler is bad enough: the module is swapped behind the original's back.
    import optc.driver as driver

    harmed = package.capture(here / "bad.pt2")
    plain = driver.run_passes
    monkeypatch.setattr(driver, "run_passes", lambda module, *rest: plain(harmed, *rest))
    result = optc(
        "compile",
        "good.pt2",
        "-o",
        "o",
        "--no-bench",
        "--data",
        "test.npz",
        "--accuracy-drop",
        "1%",
    )
    assert (result.code, result.diagnostics) == (1, ["W0754", "E0747"])
    assert "does not hold" in result.out
    assert "does not hold" in Path("o", "report.html").read_text()
    assert optc("eval", "o", "--data", "test.npz").code == 0


def test_graphs_in_text_form_are_models_too(optc: Optc, here: Path) -> None:
    save(package.capture(here / "good.pt2"), here / "good.optc")
    result = optc("eval", "good.optc", "--data", "test.npz", "--against", "good.pt2")
    assert result.code == 0, result.err
    assert "0.00 points" in result.out
