"""Weights by their address: one address, one content, checked, and whole or not at all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
import torch

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.experiment.prepare import prepare
from paredown.models import download, pretrained
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.pretrained import load_pretrained, weights_file


class Server:
    """A server of `pages` (path: bytes), which says that each is `longer` by so many bytes (None: says no length)."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.longer: int | None = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                if self.path not in server.pages:
                    self.send_error(404)
                    return
                content = server.pages[self.path]
                self.send_response(200)
                if server.longer is not None:
                    self.send_header("Content-Length", str(len(content) + server.longer))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def served(hub) -> Iterator[tuple[Server, str]]:
    server = Server()
    with HTTPServer(("127.0.0.1", 0), server.handler()) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def content_of(url: str) -> bytes:
    path = weights_file({"weights": url})
    assert path is not None
    return Path(path).read_bytes()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_addresses_of_one_file_name_are_different_files(served) -> None:
    server, root = served
    server.pages = {"/a/net.pth": b"a", "/b/net.pth": b"b", "/b/net.pth?version=2": b"c"}
    for _ in range(2):
        assert [content_of(root + page) for page in server.pages] == [b"a", b"b", b"c"]
    assert len(server.asked) == 3  # each once
    assert content_of(f"{root}/a/net.pth#layer") == b"a" and len(server.asked) == 3  # no other address


def test_a_url_is_a_network_and_the_log_has_its_checksum(served, caplog) -> None:
    server, root = served
    torch.manual_seed(0)
    torch.save((trained := cifar_resnet(8, 0.5)).state_dict(), path := Path(torch.hub.get_dir()).with_name("net.pth"))
    server.pages["/net.pth"] = path.read_bytes()
    with caplog.at_level(logging.INFO, "paredown"):
        found = weights_file({"weights": f"{root}/net.pth"})
    load_pretrained(module := cifar_resnet(8, 0.5), found)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in module.state_dict().items())
    assert hashlib.sha256(path.read_bytes()).hexdigest() in caplog.text and f"{root}/net.pth" in caplog.text


def test_what_a_server_asks_for_in_secret_is_not_logged(served, caplog) -> None:
    server, root = served
    server.pages["/net.pth?token=secret"] = b"a"
    with caplog.at_level(logging.INFO, "paredown"):
        content_of(f"{root}/net.pth?token=secret")
    assert "net.pth" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("content", "longer", "words"),
    [(b"half", 4, "cut off after 4 of 8 bytes"), (b"half", None, "does not say how long it is"), (b"", 0, "is empty")],
)
def test_a_download_is_whole_or_not_at_all(served, hub, content, longer, words) -> None:
    server, root = served
    server.pages["/net.pth"], server.longer = content, longer
    message = refused(lambda: content_of(f"{root}/net.pth"))
    assert f"cannot download {root}/net.pth" in message and words in message and "model.weights=PATH" in message
    assert not [path for path in hub.rglob("*") if path.is_file()]
    server.pages["/net.pth"], server.longer = b"whole", 0
    assert content_of(f"{root}/net.pth") == b"whole"


def test_an_interrupted_download_leaves_nothing(served, hub, monkeypatch) -> None:
    server, root = served
    server.pages["/net.pth"] = b"whole"

    def interrupted(*args, **more):
        response = urlopen(*args, **more)
        response.read = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        return response

    monkeypatch.setattr(download, "urlopen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        content_of(f"{root}/net.pth")
    assert not [path for path in hub.rglob("*") if path.is_file()]


def test_a_kept_file_that_was_damaged_is_downloaded_again(served) -> None:
    server, root = served
    server.pages["/net.pth"] = b"whole"
    path = weights_file({"weights": f"{root}/net.pth"})
    Path(path).write_bytes(b"who")
    assert content_of(f"{root}/net.pth") == b"whole" and len(server.asked) == 2


def test_a_kept_file_needs_no_network_and_another_page_is_an_error(served) -> None:
    server, root = served
    server.pages["/net.pth"] = b"whole"
    assert content_of(f"{root}/net.pth") == b"whole"
    server.pages.clear()
    assert content_of(f"{root}/net.pth") == b"whole"
    assert "HTTP Error 404" in refused(lambda: content_of(f"{root}/nothing.pth"))
    assert "model.weights=http://[/net.pth is no address" in refused(lambda: content_of("http://[/net.pth"))


@pytest.mark.parametrize("last", ["..", "", "%2e%2e%2f%2e%2e%2fnet.pth", ".hidden", "x" * 300 + ".pth"])
def test_no_address_names_a_file_elsewhere(served, hub, last) -> None:
    server, root = served
    server.pages[f"/a/{last}"] = b"a"
    path = Path(weights_file({"weights": f"{root}/a/{last}"}))
    assert path.read_bytes() == b"a" and path.resolve().is_relative_to(hub / "paredown") and path.name[0] != "."


def test_torchvisions_file_is_shared_and_its_hash_checked(served, hub, monkeypatch) -> None:
    server, root = served
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    entry = SimpleNamespace(url=f"{root}/net-{digest}.pth")
    monkeypatch.setattr(pretrained, "_torchvision_entry", lambda model, weights: entry)
    config = {"_target_": "paredown.models.torchvision.resnet18", "weights": "imagenet1k_v1"}
    server.pages[f"/net-{digest}.pth"] = b"other"
    assert f"not {digest}..." in refused(lambda: weights_file(config))
    server.pages[f"/net-{digest}.pth"] = b"weights"
    assert weights_file(config) == weights_file(config) == str(hub / f"net-{digest}.pth")
    assert len(server.asked) == 2
    (hub / f"net-{digest}.pth").write_bytes(b"wei")  # by a process that was killed, say
    assert Path(weights_file(config)).read_bytes() == b"weights" and len(server.asked) == 3


URLS = {"resnet18": "resnet18-f37072fd.pth", "mobilenet_v2": "mobilenet_v2-b0353104.pth"}


@pytest.mark.parametrize("model", URLS)
def test_torchvisions_first_weights_and_no_network(model, hub, monkeypatch) -> None:
    def unreachable(request, **_more):
        assert request.full_url == f"https://download.pytorch.org/models/{URLS[model]}"
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "urlopen", unreachable)
    config = {"_target_": f"paredown.models.torchvision.{model}", "weights": "IMAGENET1K_V1"}
    message = refused(lambda: weights_file(config))
    assert "cannot download https:" in message and "(Name or service not known)" in message


@pytest.mark.parametrize(("width", "hash"), [(0.5, "f707e7126e"), (1.0, "5666bf0f80")])
def test_the_widths_of_shufflenet_have_their_own_files(width, hash, monkeypatch) -> None:
    monkeypatch.setattr(pretrained, "torchvisions", lambda url: url)
    config = {"_target_": "paredown.models.torchvision.shufflenet_v2", "width": width, "weights": "imagenet1k_v1"}
    assert weights_file(config).endswith(f"/shufflenetv2_x{width:g}-{hash}.pth")


def test_another_file_at_the_same_path_is_another_network(tmp_path) -> None:
    """In one process: a sweep's worker outlives an experiment."""
    words = ["dataset=digits", "model=resnet20", "model.depth=8", f"model.weights={tmp_path}/net.pth"]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = cifar_resnet(8, num_classes=10, in_channels=1)
        torch.save(module.state_dict(), tmp_path / "net.pth")
        experiment = prepare(compose([*words, f"output={tmp_path}", "tracking=off"]))
        assert torch.equal(experiment.dense().module.conv.weight, module.conv.weight)
        found.append(experiment.key)
    assert found[0] != found[1]
