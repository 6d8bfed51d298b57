"""The configuration of the service: what is wrong is said at once, and nothing unsafe starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonodistill.dicom.config import is_loopback, read_service, read_settings
from sonodistill.dicom.errors import ServiceConfigError

ROUTE = '[[route]]\nname = "all"\nmodel = "model.onnx"\neverything = true\n'
SAFE = 'scp.allow = ["PACS@10.0.0.5"]\n' + ROUTE


@pytest.fixture
def written(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"not read here")

    def write(text: str) -> Path:
        path = tmp_path / "service.toml"
        path.write_text(text)
        return path

    return write


def problems(path: Path) -> list[str]:
    with pytest.raises(ServiceConfigError) as caught:
        read_settings(path)
    assert caught.value.path == path
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_what_is_not_said_has_its_default_and_paths_start_at_the_file(written, tmp_path):
    settings = read_settings(written('service.spool = "queue"\n' + SAFE))
    assert settings.service.spool == tmp_path / "queue" and settings.service.max_attempts == 5
    assert settings.scp is not None and (settings.scp.host, settings.scp.port) == ("127.0.0.1", 11112)
    assert settings.route[0].model == tmp_path / "model.onnx" and settings.route[0].outputs.segmentation == "binary"
    assert settings.http is None and settings.destination == ()


def test_codes_of_segments_are_read(written):
    text = ROUTE + '[route.segments.lesion.type]\nvalue = "4147007"\nscheme = "SCT"\nmeaning = "Mass"\n'
    code = read_settings(written(text)).route[0].segments["lesion"].type
    assert code is not None and (code.value, code.scheme, code.meaning) == ("4147007", "SCT", "Mass")


def test_everything_wrong_is_said_at_once(written):
    text = 'service = {spoool = "x", max_attempts = "5"}\nhttp = 3\n[[route]]\nname = 7\n'
    assert sorted(problems(written(text))) == [
        "http has to be a table",
        "route[0].model is missing",
        "route[0].name has to be str, not 7",
        "service.max_attempts has to be int, not '5'",
        "service.spoool: there is no such setting",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scp.allow = []\n" + ROUTE, "scp.allow is empty"),
        ('scp = {allow = ["PACS"], host = "0.0.0.0"}\n' + ROUTE, "scp.host 0.0.0.0 is not loopback"),
        ('scp = {allow = ["PACS"], host = "::"}\n' + ROUTE, "scp.host :: is not loopback"),
        (
            'scp = {allow = ["PACS"], host = "10.1.1.1", tls = {certificate = "c.pem", key = "k.pem"}}\n' + ROUTE,
            "authority",
        ),
        ('http.host = "pacs.example"\n' + ROUTE, "http.host pacs.example is not loopback"),
        ('http = {host = "0.0.0.0", token_file = "token"}\n' + ROUTE, "http.token_file and http.tls"),
        ("http.stow = true\n" + ROUTE, "http.stow needs http.token_file"),
        ('[[pull]]\nurl = "http://pacs.example/dicom-web"\ntoken_file = "token"\n' + ROUTE, "over https only"),
        ('[[destination]]\nname = "a"\nkind = "dimse"\nae_title = "PACS"\n' + ROUTE, "a needs host"),
        ('[[destination]]\nname = "a"\nkind = "ftp"\n' + ROUTE, "destination[0].kind has to be one of dimse, stow"),
        ('[[route]]\nname = "all"\nmodel = "model.onnx"\n', "route all matches nothing"),
        ('[[route]]\nname = "all"\nmodel = "gone.onnx"\neverything = true\n', "there is no file"),
        ("route = []\n", "there is no route"),
        (ROUTE + 'destinations = ["nowhere"]\n', "no destination nowhere"),
        ('scp = {allow = ["PACS"], ae_title = "LONGER THAN SIXTEEN"}\n' + ROUTE, "is no AE title"),
        ('scp = {allow = ["PACS"], port = 70000}\n' + ROUTE, "scp.port has to be between 0 and 65535, not 70000"),
        ("service.max_used_percent = 101.0\n" + ROUTE, "service.max_used_percent has to be between 1 and 100"),
        ("service.decode_memory_mb = 300\n" + ROUTE, "between 512 and"),
        ("service.keep_days = nan\n" + ROUTE, "service.keep_days has to be"),
        ("watch = [{folder = 'in', poll_seconds = 0}]\n" + ROUTE, "watch[0].poll_seconds"),
        ("pull = [{url = 'https://pacs', frames_per_request = 0}]\n" + ROUTE, "pull[0].frames_per_request"),
        ("destination = [{name = 'a', kind = 'folder', folder = 'o', timeout_seconds = 0}]\n" + ROUTE, "timeout"),
        (ROUTE + "threshold = 7\n", "route[0].threshold has to be between 0 and 1"),
        ('scp = {allow = ["   "]}\n' + ROUTE, "is no AE title"),
        ('scp = {allow = ["PACS@pacs.example"]}\n' + ROUTE, "no IP address or network"),
        ("pull = [{url = 'https://pacs', user = 'me'}]\n" + ROUTE, "user needs token_file"),
        ("pull = [{url = 'ftp://pacs'}]\n" + ROUTE, "url has to be http(s)://"),
        ("pull = [{url = 'http://pacs', tls = {authority = 'a.pem'}}]\n" + ROUTE, "tls is given, and the url is http"),
        ("destination = [{name = 'a', kind = 'stow', url = 'pacs/dicom-web'}]\n" + ROUTE, "url has to be http(s)://"),
        ("service.spool = 'in/queue'\nwatch = [{folder = 'in'}]\n" + ROUTE, "holds the spool"),
        (
            "watch = [{folder = 'a'}]\ndestination = [{name = 'out', kind = 'folder', folder = 'a/b'}]\n" + ROUTE,
            "holds destination out",
        ),
        (ROUTE.replace("everything = true", "sop_class = 'cines'"), "neither still, cine nor a UID"),
        (ROUTE.replace('"all"', '" "'), "a name has 1 to 64"),
        (ROUTE + "destinations = []\n", "its results would go nowhere"),
        (ROUTE + "segments = {lesion = {type = {value = '', scheme = 'SCT', meaning = 'Mass'}}}\n", "segment 'lesion'"),
    ],
)
def test_what_cannot_work_or_is_not_safe_is_refused(written, text, said):
    found = problems(written(text))
    assert len(found) == 1 and said in found[0], found


def test_two_routes_have_two_names_or_one_would_compute_with_the_model_of_the_other(written):
    assert problems(written(ROUTE + ROUTE)) == ["route all: the name is used twice"]


def test_a_service_has_a_way_in_and_a_way_out(written):
    path = written(ROUTE)
    assert read_settings(path).destination == (), "which is enough for files once"
    with pytest.raises(ServiceConfigError, match=r"(?s)no way in.*no destination"):
        read_service(path)


def test_two_destinations_have_two_names(written):
    one = '[[destination]]\nname = "a"\nkind = "folder"\nfolder = "out"\n'
    assert problems(written(one + one + ROUTE)) == ["destination a: the name is used twice"]


@pytest.mark.parametrize("text", ["a = ", "\x00", "a = 1\na = 2", "x" * (2 << 20)])
def test_a_file_that_is_no_toml_is_named(written, text):
    with pytest.raises(ServiceConfigError, match=r"service\.toml"):
        read_settings(written(text))


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST")),
        *((host, False) for host in ("0.0.0.0", "", "localhost.example", "10.0.0.1", "::")),
    ],
)
def test_loopback(host, inside):
    assert is_loopback(host) is inside
