"""The JavaScript client under Node: its own tests, its types, its page's examples, and streams that are cut."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clients.javascript.tests.node import LIMIT_SECONDS, PACKAGE, output, start, tool
from clients.python.tests.cutting import cutting
from tests.documents import allotted
from tests.e2e.conftest import Service
from tests.e2e.protocol_client import Api, sha256
from tests.faults.proxy import Proxy

QUIETLY = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
CUTS = 50
ENDLESS = "[[tokens=100000 rate=40 jitter=0.3]] read me"
"""Is stopped when the cuts are made, however long they take."""
WAYS = ["ticket", "sse"]
EXAMPLES = [block.take() for block in allotted(__file__)]
ENDINGS = [
    r"\d+ tokens, 0\.\d+ USD\n.",
    r"completed 0\.\d+\n\Z",
    r"ended: stopped\n\d user \d+\n\d assistant \d+\n",
]


def test_what_it_decides_needs_no_service():
    output(start(["--test", "tests/core.test.js"]))


def test_it_asks_streams_stops_and_lists(stack: Service):
    output(
        start(
            ["--test", "tests/service.test.js"], TURNKEEPER_URL=stack.url, TURNKEEPER_KEY=stack.key("service")
        )
    )


@contextmanager
def reading(**environ: str) -> Iterator[subprocess.Popen[str]]:
    """A reader that has begun, and is gone in the end."""
    process = start(["tests/read.js"], **environ)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_SECONDS)


@pytest.mark.timeout(4 * LIMIT_SECONDS)
def test_answers_that_are_cut_fifty_times_are_whole(stack: Service, api: Api):
    """One reader for each way, and one of a session with two turns, all at once: each behind a proxy of its own."""
    turns = {way: api.turn(api.session(user="alice"), ENDLESS) for way in WAYS}
    watched = api.session(user="alice")
    whats = {way: {"VIA": way, "TURN": turn_id} for way, turn_id in turns.items()}
    whats["session"] = {"VIA": "ticket", "SESSION": watched, "TURNS": "2"}
    with ExitStack() as open_:
        readers, cuts = {}, []
        for seed, (way, what) in enumerate(whats.items()):
            proxy = open_.enter_context(Proxy(urlsplit(stack.url).port or 0))
            url = f"http://127.0.0.1:{proxy.port}"
            service = {"TURNKEEPER_URL": url, "TURNKEEPER_KEY": stack.key("service")}
            readers[way] = open_.enter_context(reading(**service, **what))
            cuts.append(open_.enter_context(cutting(proxy, CUTS, seed)))
        turns["session"] = api.turn(watched, ENDLESS)
        later = api.turn(watched, "[[tokens=20 rate=100]] and then", multitask_strategy="enqueue")
        for each in cuts:
            assert each.all_made.wait(LIMIT_SECONDS)
            assert each.made >= CUTS
        for turn_id in turns.values():
            api.stop(turn_id)
        found = {way: json.loads(output(process)) for way, process in readers.items()}
    for way, turn_id in [*turns.items(), ("session", later)]:
        read = found[way]["turns"][turn_id]
        assert read["seqs"] == list(range(1, len(read["seqs"]) + 1)), way
        assert read["done"]["content_sha256"] == sha256(read["text"]), way
        assert read["text"] == api.answer_to(api.final(turn_id)), way
        assert found[way]["mended"] == 0, way
        assert found[way]["connections"] > CUTS // 5, way


@pytest.mark.timeout(2 * LIMIT_SECONDS + 60)
def test_its_types_hold_and_reach_a_typescript_program(tmp_path: Path):
    """JSDoc is checked strictly; the declarations that a package is made with are what its users' compilers read."""
    tsc = tool("tsc")
    types = tmp_path / "src"
    emit = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", types]
    subprocess.run([tsc, "-p", PACKAGE, *emit], check=True, timeout=LIMIT_SECONDS)
    for written in ("api.d.ts", "options.d.ts"):
        shutil.copy(PACKAGE / "src" / written, types)
    program = tmp_path / "program.ts"
    program.write_text((PACKAGE / "tests" / "program.ts").read_text())
    check = [
        "--strict",
        "--skipLibCheck",
        "--noEmit",
        "--target",
        "ES2022",
        "--module",
        "ES2022",
        "--moduleResolution",
        "node",
    ]
    subprocess.run([tsc, *check, program], check=True, timeout=LIMIT_SECONDS)


@pytest.fixture(scope="module")
def compilers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compilers of `compilers/package-lock.json`, and what writes the declarations with them."""
    package = tmp_path_factory.mktemp("compilers") / "javascript"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("node_modules"))
    run([tool("npm"), "ci", *QUIETLY], package / "compilers")
    return package / "compilers"


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(3 * LIMIT_SECONDS)
def test_its_declarations_are_those_of_its_modules(compilers: Path, tmp_path: Path):
    """`make client-types` writes them; they are in the tree so that nobody who installs it needs a compiler."""
    run([tool("node"), "declare.mjs", "typescript5", tmp_path], compilers)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (PACKAGE / "src").glob("*.d.ts")}
    by_hand = {"api.d.ts", "options.d.ts"}
    assert {name: text for name, text in kept.items() if name not in by_hand} == written
    assert by_hand < kept.keys()
    (tmp_path / "newest").mkdir()
    run([tool("node"), "declare.mjs", "typescript7", tmp_path / "newest"], compilers)


@pytest.mark.timeout(3 * LIMIT_SECONDS)
def test_a_package_made_of_it_brings_its_types(compilers: Path, tmp_path: Path):
    """Packed without any compiler, installed, and read by the compilers that programs are written with today."""
    made = run([tool("npm"), "pack", "--silent", "--pack-destination", tmp_path], compilers.parent).strip()
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run([tool("npm"), "install", "--offline", *QUIETLY, f"./{made}"], tmp_path)
    program = (PACKAGE / "tests" / "program.ts").read_text()
    (tmp_path / "program.ts").write_text(program.replace("./src/turnkeeper.js", "turnkeeper"))
    check = ["--strict", "--noEmit", "--target", "ES2022", "--lib", "ES2022,DOM,DOM.Iterable"]
    for compiler in ("typescript5", "typescript7"):
        tsc = compilers / "node_modules" / compiler / "bin" / "tsc"
        for module, resolution in (("NodeNext", "NodeNext"), ("ES2022", "Bundler")):
            how = ["--module", module, "--moduleResolution", resolution]
            run([tool("node"), tsc, *check, *how, "program.ts"], tmp_path)


@pytest.mark.parametrize(("example", "ending"), [*zip(EXAMPLES, ENDINGS, strict=True)])
def test_an_example_runs_and_says_what_it_is_about(stack: Service, tmp_path: Path, example: str, ending: str):
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "turnkeeper").symlink_to(PACKAGE)
    program = tmp_path / "example.mjs"
    program.write_text(example)
    said = output(start([program], TURNKEEPER_URL=stack.url, TURNKEEPER_KEY=stack.key("user")))
    assert re.search(ending, said), said
