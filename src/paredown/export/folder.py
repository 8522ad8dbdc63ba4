"""The folder of an export: certificate, README and usage script, and their upload to MLflow."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.core.errors import UserError
from paredown.core.files import write_text
from paredown.export import certificate
from paredown.export.certificate import Certificate
from paredown.export.files import FILES, QUANTIZED
from paredown.results.find import Trained
from paredown.tracking.client import connect, outages_as, public
from paredown.tracking.view import CERTIFIED

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

USAGE, README, MLMODEL = "usage.py", "README.md", "MLmodel"
ARTIFACTS = "export"  # path among a run's artifacts
NAMES = (*FILES.values(), USAGE, README, MLMODEL, certificate.NAME)
CONTENTS = {"torch": "for paredown", "program": "for torch alone", "onnx": "for onnxruntime and other ONNX runtimes"}
CONTENTS |= {"int8": "the same in 8 bits, rounded"}


def require_replaceable(place: Path) -> None:
    """Create `place`. Raise UserError if that fails, and if it has files of the names of an export's without a
    certificate beside them: they are something else's."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(place, error) from error
    there = [name for name in NAMES if (place / name).exists()]
    if there and not (place / certificate.NAME).is_file():
        what = f"has a {there[0]} that is no export's, as there is no {certificate.NAME}"
        raise UserError(f"{place} {what}: choose another folder= or remove it")


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yield a folder for the files of an export, which replace those of an earlier one in `place` when the context ends
    and are removed where it fails; other files stay. Raise UserError if `place` cannot be written."""
    try:
        made = Path(tempfile.mkdtemp(prefix=".export-", dir=place))
    except OSError as error:
        raise _unwritable(place, error) from error
    try:
        yield made
        try:
            for name in NAMES:
                _replace(made / name, place / name)
        except OSError as error:
            raise _unwritable(place, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replace(new: Path, old: Path) -> None:
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
    if new.exists():
        new.rename(old)


def _unwritable(place: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the export into {place}: {error.strerror} (choose another: folder=)")


def complete(place: Path, made: Certificate, name: str) -> None:
    """Add the certificate, usage.py and README.md to the networks in `place`."""
    write_text(place / certificate.NAME, json.dumps(made.data(), indent=1))
    shutil.copyfile(Path(__file__).with_name(USAGE), place / USAGE)
    files = "\n".join(f"* `{FILES[one]}`: {CONTENTS[one]}" for one in made.entries)
    classify = "    python usage.py IMAGE [IMAGE ...]"
    facts = "Class names, normalisation and input size are inside each file; `usage.py` shows how to read them."
    verdict = "" if made.equal else "**Not equal to the trained network: do not ship it.**\n\n"
    text = f"# {name}\n\n{verdict}{files}\n\n{facts}\n\n{classify}\n\n## Certificate\n\n{made.markdown()}\n"
    write_text(place / README, text)


def record(place: Path, made: Certificate, trained: Trained, register: str | None) -> str | None:
    """Log the certificate to the run, if there is one, and tag it `certified`. With `register`, log the whole folder,
    make it a version of that name in the registry and return its number. Raise UserError if MLflow fails."""
    if not (trained.uri and trained.run_id):
        return None
    with outages_as(UserError, f"{public(trained.uri)} does not take the certificate: "):
        client = connect(trained.uri)
        version = None
        if register:
            _describe(place, made, trained.run_id)
            client.log_artifacts(trained.run_id, str(place), ARTIFACTS)
            version = _version(client, register, made, trained.run_id)
        else:
            client.log_artifact(trained.run_id, str(place / certificate.NAME), ARTIFACTS)
        client.set_tag(trained.run_id, CERTIFIED, ",".join(made.entries))
    return version


def _version(client: MlflowClient, name: str, made: Certificate, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "formats": ",".join(made.entries),
        "top1": f"{made.trained_top1:.2f}",
        "experiment": made.about["experiment"],
    }
    source = f"runs:/{run_id}/{ARTIFACTS}"
    version = client.create_model_version(name, source, run_id, tags=tags, description=made.markdown())
    return str(version.version)


def _describe(place: Path, made: Certificate, run_id: str) -> None:
    """Write the MLmodel file with one flavour per exported file; `mlflow.pyfunc` runs the ONNX one, in 8 bits where
    there is such."""
    import numpy
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = numpy.dtype("float32")
    inputs = Schema([TensorSpec(kind, (-1, *made.about["input"]), "images")])
    outputs = Schema([TensorSpec(kind, (-1, made.about["classes"]), "logits")])
    model = Model(run_id=run_id, signature=ModelSignature(inputs, outputs), metadata={"certified": made.equal})
    served = next((name for name in (*QUANTIZED, "onnx") if name in made.entries), None)
    for name in made.entries:
        if name == served:
            _add_onnx(model, FILES[name])
        else:
            model.add_flavor(f"paredown.{name}", data=FILES[name], format=name)
    model.save(place / MLMODEL)


def _add_onnx(model: Model, file: str) -> None:
    import onnx
    from mlflow import pyfunc

    settings: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "onnx_session_options": None, "code": None}
    pyfunc.add_to_model(model, loader_module="mlflow.onnx", data=file)
    model.add_flavor("onnx", onnx_version=onnx.__version__, data=file, **settings)
