"""Files of texts to files of vectors: what is paid for is kept, whatever goes wrong, over real HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jina_sm.cli import journal, search
from jina_sm.errors import InputError
from tests.conftest import Told

V3 = "jina-embeddings-v3"
Run = Callable[..., Told]
TEXTS = [f"text {number}" for number in range(2000)]  # several requests
DIMENSIONS = ("--dimensions", "32")


class Server(http.server.ThreadingHTTPServer):
    """Speaks as Jina's API does, and keeps what it answered. Refuses ``poison``, and all but two if it is told so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.came = threading.Condition()
        self.answered: list[str] = []
        self.goes_on()

    def goes_on(self) -> None:
        self.asked, self.ends = 0, False

    def ends_after_two(self) -> None:
        self.asked, self.ends = 0, True


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts = asked["input"]
        with server.came:
            server.asked += 1
            server.came.notify_all()
            status = 401 if server.ends and server.asked > 2 else 400 if "poison" in texts else 200
            if status == 401:  # three are asked at first and then two for an answer: with the seventh, both were read
                assert server.came.wait_for(lambda: server.asked >= 7 or not server.ends, 60)
            if status == 200:
                server.answered += texts
        rows = [{"index": place, "embedding": vector(text)} for place, text in enumerate(texts)]
        usage = {"total_tokens": len(texts), "prompt_tokens": len(texts)}
        said = (
            {"model": V3, "object": "list", "usage": usage, "data": rows} if status == 200 else {"detail": "not that"}
        )
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def vector(text: str) -> list[float]:
    """Which no other text has, and 32 numbers that float32 holds."""
    return [float(each) for each in np.resize(np.frombuffer(text.encode(), np.uint8), 32)]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(typed: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``embed -i in.txt`` and more words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JINA_API_KEY", "k")
    monkeypatch.setenv("JINA_API_URL", f"http://127.0.0.1:{server.server_port}")
    target = ("--target", f"jina-api://?model={V3}")  # where nothing is sent twice because it takes long

    def command(*words: str, texts: list[str] = TEXTS) -> Told:
        Path("in.txt").write_text("\n".join(texts))
        return typed("embed", "-i", "in.txt", *target, *DIMENSIONS, *words)

    return command


def written(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def files() -> set[str]:
    return {each.name for each in Path().iterdir()} - {"in.txt"}


@pytest.mark.parametrize("name", ["out.jsonl", "out.npy"])
def test_what_was_finished_before_the_end_is_not_asked_again(server: Server, run: Run, name: str) -> None:
    server.ends_after_two()
    code, out, err = run("-o", name)
    assert (code, out) == (1, "")
    assert "What is finished is in " + f"{name}.part: the same with --resume" in err
    assert files() == {f"{name}.part"}, "never half a file"
    kept = len(server.answered)
    assert 0 < kept < len(TEXTS)
    server.goes_on()
    code, _, err = run("-o", name, "--resume")
    assert (code, f", {kept} were there" in err) == (0, True)
    assert sorted(server.answered) == sorted(TEXTS), "each once"
    assert files() == {name}
    vectors = np.load(name) if name.endswith("npy") else [row["embedding"] for row in written(name)]
    np.testing.assert_array_equal(vectors, [vector(text) for text in TEXTS])


def test_what_was_begun_is_not_begun_anew_by_mistake(server: Server, run: Run) -> None:
    server.ends_after_two()
    run("-o", "out.npy")
    before = Path("out.npy.part").read_bytes()
    code, _, err = run("-o", "out.npy")
    assert (code, "--resume goes on from what it has; else delete it" in err) == (2, True)
    assert Path("out.npy.part").read_bytes() == before


def test_a_line_that_was_written_in_part_is_asked_again(server: Server, run: Run) -> None:
    server.ends_after_two()
    run("-o", "out.jsonl")
    part, kept = Path("out.jsonl.part"), len(server.answered)
    part.write_bytes(part.read_bytes()[:-9])
    server.goes_on()
    code, _, err = run("-o", "out.jsonl", "--resume")
    assert (code, f", {kept - 1} were there" in err, len(server.answered)) == (0, True, len(TEXTS) + 1)


def test_what_comes_after_a_line_in_part_stays_too(tmp_path: Path) -> None:
    output, part = str(tmp_path / "out.npy"), tmp_path / "out.npy.part"
    part.write_bytes(b'{"key":"0')
    for text in "ab":
        with journal.opened(output, [], resume=True) as finished:
            finished.add(text, np.ones(1, np.float32))
    assert [json.loads(line)["embedding"] for line in part.read_text().splitlines()] == [[1], [1]]


def test_other_settings_take_nothing_from_what_was_finished(server: Server, run: Run) -> None:
    server.ends_after_two()
    run("-o", "out.npy")
    server.goes_on()
    kept = len(server.answered)
    assert run("-o", "out.npy", "--resume", "--task", "retrieval.query")[0] == 0
    assert len(server.answered) == kept + len(TEXTS)


def test_what_another_place_gave_is_not_taken_for_the_models(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local stack's vectors are a stand-in's."""
    server.ends_after_two()
    run("-o", "out.npy")
    server.goes_on()
    kept = len(server.answered)
    monkeypatch.setenv("JINA_API_URL", f"http://localhost:{server.server_port}")
    assert run("-o", "out.npy", "--resume")[0] == 0
    assert len(server.answered) == kept + len(TEXTS)


def test_a_file_of_something_else_is_left_alone(server: Server, run: Run) -> None:
    for said in ("a\n", "[1]\n", '{"a": 1}\n'):
        Path("out.npy.part").write_text(said)
        code, _, err = run("-o", "out.npy", "--resume")
        assert (code, "out.npy.part holds something else" in err) == (2, True)
        assert Path("out.npy.part").read_text() == said
    assert not server.answered


def test_a_line_that_is_refused_ends_the_run_and_spoils_nothing(server: Server, run: Run) -> None:
    code, _, err = run("-o", "out.jsonl", texts=[*TEXTS[:700], "poison", *TEXTS[700:]])
    assert (code, "error: line 701: the server answered" in err) == (1, True)
    code, _, err = run("-o", "out.jsonl", "--resume", texts=[*TEXTS[:700], "cured", *TEXTS[700:]])
    assert (code, len(written("out.jsonl"))) == (0, 2001)
    assert sorted(server.answered) == sorted([*TEXTS, "cured"])


def test_lines_without_a_vector_keep_their_places(server: Server, run: Run) -> None:
    texts = ["a", "poison", "b", "word " * 20_000, "c"]
    code, out, err = run("-o", "out.jsonl", "--on-error", "collect", "--json", texts=texts)
    rows, told = written("out.jsonl"), json.loads(out)
    assert code == 1
    assert [row["text"] for row in rows] == texts
    assert [row["embedding"] is None for row in rows] == [False, True, False, True, False]
    assert rows[1]["error"].startswith("line 2: the server answered")
    assert rows[3]["error"].startswith("line 4: has about")
    assert [each["line"] for each in told["failed"]] == [2, 4]
    assert "line 2: the server answered" in err
    assert "5 x 32" in err
    assert ", 2 have no vector" in err
    assert run("-o", "out.npy", "--on-error", "collect", texts=texts)[0] == 1
    vectors = np.load("out.npy")
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(vectors[4], vector("c"))
    server.answered.clear()
    assert run("-o", "out.npy", "--resume", texts=["a", "cured", "b", "c"])[0] == 0
    assert server.answered == ["cured"], "the rest is still there"


def test_nothing_but_refused_lines_is_a_file_too(run: Run) -> None:
    assert run("-o", "out.npy", "--on-error", "collect", texts=["poison"])[0] == 1
    assert np.isnan(np.load("out.npy")).all()
    assert files() == {"out.npy"}


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_paid_for_is_printed_before_the_error(server: Server, run: Run, as_json: bool) -> None:
    server.ends_after_two()
    code, out, err = run(*["--json"] * as_json)
    rows = json.loads(out) if as_json else [json.loads(line) for line in out.splitlines()]
    assert (code, "error: " in err) == (1, True)
    assert sorted(row["text"] for row in rows) == sorted(server.answered)
    assert len(rows) > 0
    server.goes_on()
    code, out, _ = run("--on-error", "collect", *["--json"] * as_json, texts=["a", "poison"])
    rows = json.loads(out) if as_json else [json.loads(line) for line in out.splitlines()]
    assert (code, [row["embedding"] is None for row in rows]) == (1, [False, True])


def test_a_target_that_fails_is_no_lines_fault(server: Server, run: Run) -> None:
    server.ends_after_two()
    code, _, err = run("-o", "out.npy", "--on-error", "collect")
    assert (code, "error: the server answered: not that" in err) == (1, True)
    assert files() == {"out.npy.part"}, "it is not taken for done"


def test_what_was_finished_stays_at_an_interruption(tmp_path: Path) -> None:
    output = str(tmp_path / "out.npy")

    def interrupted() -> None:
        with journal.opened(output, ["m"], resume=False) as finished:
            finished.add("a", np.ones(2, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with journal.opened(output, ["m"], resume=True) as finished:
        assert ("a" in finished, "b" in finished, finished["a"]) == (True, False, [1, 1])
        finished.whole = True
    assert not [*tmp_path.iterdir()]


def test_portions_are_bounded_by_lines_and_by_characters() -> None:
    lines = [search._Line(number, "", {"text": "x" * number}) for number in range(1, 10)]
    assert [*search.portions(range(9), lines, most=4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [*search.portions(range(9), lines, characters=10)] == [[0, 1, 2, 3], [4, 5], [6, 7], [8]]
    assert [*search.portions([], lines)] == []


def test_a_folder_that_is_not_there_is_named_before_anything_is_paid_for(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="cannot be written"),
        journal.opened(str(tmp_path / "no" / "x.npy"), [], resume=False),
    ):
        pass
