"""The folder of an export: what lies in it besides the networks, and how it gets to MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.blueprint import write_text
from paredown.errors import UserError
from paredown.export import certificate
from paredown.export.certificate import Certificate
from paredown.export.files import FORMATS
from paredown.tracking.client import connect, outages_as, public
from paredown.tracking.view import CERTIFIED
from paredown.trained import Trained

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

USAGE, README, MLMODEL = "usage.py", "README.md", "MLmodel"
ARTIFACTS = "export"  # where it lies among a run's artifacts
CONTENTS = {"torch": "for paredown", "program": "for torch alone", "onnx": "for onnxruntime and whatever reads ONNX"}


def clear(place: Path) -> None:
    """An empty folder, but for what is not ours. UserError where it cannot be made."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in (*FORMATS.values(), USAGE, README, MLMODEL, certificate.NAME):
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the export into {place}: {error.strerror} (choose another: folder=)") from error


def complete(place: Path, made: Certificate, name: str) -> None:
    """Add the certificate, usage.py and README.md to the networks in `place`."""
    write_text(place / certificate.NAME, json.dumps(made.data(), indent=1))
    shutil.copyfile(Path(__file__).with_name(USAGE), place / USAGE)
    files = "\n".join(f"* `{FORMATS[one]}`: {CONTENTS[one]}" for one in made.entries)
    classify = "    python usage.py IMAGE [IMAGE ...]"
    facts = "Class names, normalisation and input size are inside each file; `usage.py` shows how to read them."
    verdict = "" if made.equal else "**Not equal to the trained network: do not ship it.**\n\n"
    text = f"# {name}\n\n{verdict}{files}\n\n{facts}\n\n{classify}\n\n## Certificate\n\n{made.markdown()}\n"
    write_text(place / README, text)


def record(place: Path, made: Certificate, trained: Trained, register: str | None) -> str | None:
    """Log the certificate to the run and tag it `certified`, where there is a run. With `register`, log the whole
    folder and make it a version of that name in the registry; returns its number. UserError where MLflow refuses."""
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
    """MLflow's description of a model: one flavour for each file; the ONNX one is what `mlflow.pyfunc` runs."""
    import numpy
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = numpy.dtype("float32")
    inputs = Schema([TensorSpec(kind, (-1, *made.about["input"]), "images")])
    outputs = Schema([TensorSpec(kind, (-1, made.about["classes"]), "logits")])
    model = Model(run_id=run_id, signature=ModelSignature(inputs, outputs), metadata={"certified": made.equal})
    for name in made.entries:
        if name == "onnx":
            _add_onnx(model)
        else:
            model.add_flavor(f"paredown.{name}", data=FORMATS[name], format=name)
    model.save(place / MLMODEL)


def _add_onnx(model: Model) -> None:
    import onnx
    from mlflow import pyfunc

    settings: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "onnx_session_options": None, "code": None}
    pyfunc.add_to_model(model, loader_module="mlflow.onnx", data=FORMATS["onnx"])
    model.add_flavor("onnx", onnx_version=onnx.__version__, data=FORMATS["onnx"], **settings)
