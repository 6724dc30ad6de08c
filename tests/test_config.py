"""Configs: what can be said in a recipe and in flags, and what every mistake answers."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointmadi.config import dump, parse


@dataclass(frozen=True)
class Encoder:
    """Size of the encoder.

    Attributes:
        dim: width of the tokens.
        depth: number of blocks.
    """

    dim: int = 96
    depth: int = 4

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be positive, got {self.dim}")


SIZES = {"nano": Encoder(), "small": Encoder(384, 12)}


@dataclass(frozen=True)
class PointMae:
    """Rebuild hidden patches.

    Attributes:
        ratio: share of hidden patches.
    """

    ratio: float = 0.6


@dataclass(frozen=True)
class PointMadi:
    """Denoise patches and centres.

    Attributes:
        gamma: weight of the centre loss.
        decoder: its decoder, a choice inside a choice.
    """

    gamma: float = 0.1
    decoder: Encoder = field(
        default=Encoder(96, 2), metadata={"choices": {"thin": Encoder(96, 2), "wide": Encoder(192, 2)}}
    )


OBJECTIVES = {"point-mae": PointMae(), "point-madi": PointMadi()}


@dataclass(frozen=True)
class Optim:
    """How weights change.

    Attributes:
        lr: learning rate.
        betas: decay rates of the moments.
        fused: one kernel for all weights.
        clip: largest norm of the gradient.
    """

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    fused: bool = True
    clip: float | None = None


@dataclass(frozen=True)
class Dummy:
    """Pre-train something.

    Attributes:
        run: where results go.
        data: files of shapes.
        taps: blocks to read.
        name: what to call it.
        note: a remark.
        precision: arithmetic.
        retries: a whole number from a short list.
        compile: whether to compile.
        encoder: the encoder.
        objective: what is learned.
        extra: may be left out.
        optim: the optimiser.
    """

    run: Path = field(metadata={"positional": True})
    data: tuple[Path, ...] = field(default=(), metadata={"positional": True})
    taps: tuple[int, ...] | None = None
    name: str = "demo"
    note: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    retries: Literal[1, 2, 3] = 1
    compile: bool = False
    encoder: Encoder = field(default=SIZES["nano"], metadata={"choices": SIZES})
    objective: PointMae | PointMadi = field(default=OBJECTIVES["point-madi"], metadata={"choices": OBJECTIVES})
    extra: Encoder | None = field(default=None, metadata={"choices": {"none": None, "some": Encoder(8, 1)}})
    optim: Optim = field(default_factory=Optim)


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_and_positionals() -> None:
    assert parse(Dummy, ["out"]) == Dummy(run=Path("out"))
    assert parse(Dummy, ["out", "a.npz", "b.npz"]).data == (Path("a.npz"), Path("b.npz"))
    assert parse(Dummy, ["--compile", "out", "--", "--odd"]).data == (Path("--odd"),)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--name x", {"name": "x"}),
        ("--name=--x=1", {"name": "--x=1"}),
        ("--optim.lr 1e-3 --optim.lr 2e-3", {"optim": Optim(lr=2e-3)}),
        ("--optim.clip -1.5", {"optim": Optim(clip=-1.5)}),
        ("--optim.clip None", {}),
        ("--optim.betas 0.8 -inf", {"optim": Optim(betas=(0.8, float("-inf")))}),
        ("--optim.no-fused", {"optim": Optim(fused=False)}),
        ("--no-optim.fused --compile", {"optim": Optim(fused=False), "compile": True}),
        ("--compile --no-compile", {}),
        ("--taps 3 7 11", {"taps": (3, 7, 11)}),
        ("--precision bf16 --retries 2", {"precision": "bf16", "retries": 2}),
        ("--encoder small", {"encoder": SIZES["small"]}),
        ("--encoder.depth 1 --encoder=small", {"encoder": Encoder(384, 1)}),
        ("--objective point-mae --objective.ratio 0.8", {"objective": PointMae(0.8)}),
        ("--objective.decoder wide --objective.decoder.depth 3", {"objective": PointMadi(decoder=Encoder(192, 3))}),
        ("--extra some --extra.dim 9", {"extra": Encoder(9, 1)}),
    ],
)
def test_flags(flags: str, expected: dict) -> None:
    assert parse(Dummy, ["out", *flags.split()]) == replace(Dummy(run=Path("out")), **expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only a remark", {}),
        ("optim: {lr: 1e-3, clip: 4}", {"optim": Optim(lr=1e-3, clip=4.0)}),
        ("optim: {clip: null, fused: no, betas: [0, 1]}", {"optim": Optim(fused=False, betas=(0.0, 1.0))}),
        ("optim.lr: 0.1", {"optim": Optim(lr=0.1)}),
        ("data: a.npz", {"data": (Path("a.npz"),)}),
        ("data: [a.npz, b.npz]\ntaps: []", {"data": (Path("a.npz"), Path("b.npz")), "taps": ()}),
        ("name: '10'\nnote: --None", {"name": "10", "note": "--None"}),
        ("note: 'None'", {"note": "None"}),
        ("encoder: small", {"encoder": SIZES["small"]}),
        ("encoder: {depth: 1, name: small}", {"encoder": Encoder(384, 1)}),
        ("objective: {name: point-mae, ratio: 0.5}", {"objective": PointMae(0.5)}),
        ("objective: {decoder: {name: wide, depth: 5}}", {"objective": PointMadi(decoder=Encoder(192, 5))}),
        ("extra: {name: some, depth: 2}", {"extra": Encoder(8, 2)}),
    ],
)
def test_recipe(recipe, text: str, expected: dict) -> None:
    assert parse(Dummy, ["out"], recipe(text)) == replace(Dummy(run=Path("out")), **expected)


def test_flags_come_on_top_of_the_recipe(recipe) -> None:
    path = recipe("run: here\nencoder: {name: small, dim: 200}\nobjective: {gamma: 9}\noptim: {lr: 1, fused: false}")
    assert parse(Dummy, recipe=path).run == Path("here")
    config = parse(Dummy, ["--encoder.depth", "1", "--optim.fused", "--objective", "point-mae"], path)
    assert config.encoder == Encoder(200, 1)
    assert config.optim == Optim(lr=1.0)
    assert config.objective == PointMae(), "what the recipe said of another objective is dropped"
    assert parse(Dummy, ["--encoder", "small"], path).encoder == SIZES["small"], "a name as a flag starts afresh"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--encoder.dpeth 4", "unknown option '--encoder.dpeth'; did you mean '--encoder.depth'?"),
        ("--depth 4", "unknown option '--depth'; did you mean '--encoder.depth'?"),
        ("--xyzzy", "unknown option '--xyzzy'"),
        ("-v", "unknown option '-v'"),
        ("--optim 3", "option '--optim' is a group, not a value; give its options, such as '--optim.lr'"),
        ("--objective.ratio 1", "option '--objective.ratio' does not belong to objective 'point-madi'"),
        ("--encoder.depth x", "option '--encoder.depth' expects INT, got x"),
        ("--encoder.depth 4.0", "option '--encoder.depth' expects INT, got 4.0"),
        ("--encoder.depth", "option '--encoder.depth' expects INT, got nothing"),
        ("--optim.betas 0.9", "option '--optim.betas' expects FLOAT FLOAT, got 0.9"),
        ("--optim.clip x", "option '--optim.clip' expects {None}|FLOAT, got x"),
        ("--precision bf61", "option '--precision' expects {fp32,bf16}, got bf61; did you mean 'bf16'?"),
        ("--compile=yes", "option '--compile' takes no value, got yes; leave out =yes"),
        ("--encoder smal", "option '--encoder' is one of nano, small, got smal; did you mean 'small'?"),
        ("--encoder", "option '--encoder' is one of nano, small, got ''"),
        ("--encoder.dim 0", "encoder: dim must be positive, got 0"),
        ("a --taps 1 x", "option '--taps' expects {None}|{[INT [INT ...]]}, got 1 x"),
    ],
)
def test_mistakes_in_flags(flags: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(Dummy, ["out", *flags.split()])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder: {dpeth: 4}", "unknown option 'encoder.dpeth' in RECIPE; did you mean 'encoder.depth'?"),
        ("num-points: 4", "unknown option 'num-points' in RECIPE"),
        ("optim: 4", "option 'optim' in RECIPE is a group, not a value; give its options, such as 'optim.lr'"),
        ("optim: {lr: {low: 1}}", "unknown option 'optim.lr.low' in RECIPE; did you mean 'optim.lr'?"),
        ("encoder: {depth: four}", "option 'encoder.depth' in RECIPE expects INT, got four"),
        ("encoder: {depth: 4.0}", "option 'encoder.depth' in RECIPE expects INT, got 4.0"),
        ("encoder: {depth: true}", "option 'encoder.depth' in RECIPE expects INT, got true"),
        ("encoder: {depth: null}", "option 'encoder.depth' in RECIPE expects INT, got null"),
        ("encoder: {depth: [1, 2]}", "option 'encoder.depth' in RECIPE expects INT, got [1, 2]"),
        ("encoder: tiny", "option 'encoder' in RECIPE is one of nano, small, got tiny"),
        ("encoder: 3", "option 'encoder' in RECIPE is one of nano, small, got 3; a name is text"),
        ("compile: 1", "option 'compile' in RECIPE expects true or false, got 1"),
        ("name: 010", "option 'name' in RECIPE expects STR, got 8; put text in quotes"),
        ("name: [a]", "option 'name' in RECIPE expects STR, got [a]; put text in quotes"),
        ("retries: 4", "option 'retries' in RECIPE expects {1,2,3}, got 4"),
        ("- 1", "a recipe is lines of 'option: value', but RECIPE holds [1]"),
        ("on: 1", "option names are text, got true in RECIPE; put it in quotes if it is one"),
        ("name: a\nname: b", "cannot read RECIPE, line 2: 'name' stands here twice"),
        ("name: [a", "cannot read RECIPE, line 1: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_mistakes_in_recipes(recipe, text: str, message: str) -> None:
    path = recipe(text)
    with pytest.raises(ValueError) as caught:
        parse(Dummy, ["out"], path)
    assert str(caught.value).replace(str(path), "RECIPE") == message


def test_missing_and_superfluous(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^missing RUN \(PATH\); see --help$"):
        parse(Dummy)
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        parse(Dummy, recipe=tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"^unexpected argument 'b'; options begin with --$"):
        parse(Optim, ["b"])
    with pytest.raises(ValueError, match="a recipe follows the command"):
        parse(Optim, ["b.yaml"])
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot read"):
        parse(Dummy, recipe=binary)


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--optim.lr", "--taps", "--encoder", "small", "3", "=", "--"])))
def test_no_argument_line_gives_anything_but_a_config_or_one_line(args: list[str]) -> None:
    if {"-h", "--help"} & set(args):
        return
    try:
        assert isinstance(parse(Dummy, args), Dummy)
    except ValueError as error:
        assert str(error)


values = st.text(max_size=6) | st.sampled_from(["None", "null", "1e3", "010", "no", "--x", "~", "2024-01-01", ""])
finite = st.floats(allow_nan=False)
paths = st.text("abc./-_ 1", min_size=1, max_size=8).map(Path)
encoders = st.builds(Encoder, dim=st.integers(1), depth=st.integers())
configs = st.builds(
    Dummy,
    run=paths,
    data=st.lists(paths, max_size=3).map(tuple),
    taps=st.none() | st.lists(st.integers(), max_size=3).map(tuple),
    name=values,
    note=st.none() | values,
    precision=st.sampled_from(["fp32", "bf16"]),
    retries=st.sampled_from([1, 2, 3]),
    compile=st.booleans(),
    encoder=encoders,
    objective=st.builds(PointMae, finite) | st.builds(PointMadi, finite, encoders),
    extra=st.none() | encoders,
    optim=st.builds(Optim, finite, st.tuples(finite, finite), st.booleans(), st.none() | finite),
)


@given(config=configs)
def test_a_dump_reads_back_to_an_equal_config(tmp_path_factory: pytest.TempPathFactory, config: Dummy) -> None:
    path = tmp_path_factory.getbasetemp() / "dump.yaml"
    path.write_text(dump(config), encoding="utf-8")
    back = parse(Dummy, recipe=path)
    assert back == config
    assert repr(back) == repr(config), "types are equal too, not only values"


def test_a_dump_is_complete_and_names_its_choices() -> None:
    text = dump(Dummy(run=Path("out"), encoder=Encoder(384, 13)))
    assert "encoder:\n  name: small\n  dim: 384\n  depth: 13\n" in text
    assert "  betas: [0.9, 0.999]\n" in text
    assert "extra:\n  name: none\n" in text
    assert all(f"{key}:" in text for key in asdict(Dummy(run=Path("out"))))


def test_help_shows_every_option_and_what_is_chosen(recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Dummy, ["--objective", "point-mae", "--help"], recipe("optim: {lr: 0.25}"), prog="pointmadi dummy")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stop.value.code == 0
    assert text.startswith("usage: pointmadi dummy")
    for part in (
        "Pre-train something.",
        "RUN where results go. (required)",
        "--encoder {nano,small}",
        "(default: point-mae)",
        "--objective.ratio FLOAT share of hidden patches. (default: 0.6)",
        "--optim.lr FLOAT learning rate. (default: 0.25)",
        "--optim.fused, --optim.no-fused",
        "--extra {none,some}",
    ):
        assert part in text, part
    assert "--objective.gamma" not in text


def test_what_no_flag_can_say_is_refused_when_declared() -> None:
    @dataclass(frozen=True)
    class Odd:
        anything: object = None

    with pytest.raises(TypeError, match=r"Odd\.anything: a config cannot hold"):
        parse(Odd)
