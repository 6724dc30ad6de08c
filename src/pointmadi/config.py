"""Configs: frozen dataclasses, filled strictly from a YAML recipe and from flags on top of it.

A config is a frozen dataclass whose fields are values or further dataclasses. One name means the same thing everywhere:
the field `depth` of the field `encoder` is `--encoder.depth 4` as a flag and `encoder: {depth: 4}` in a recipe. Two
entries in a field's metadata add to that:

* `{"choices": {"nano": Encoder(...), "small": Encoder(...)}}` names whole values: of one dataclass or several, or None.
  `--encoder small` or `encoder: small` takes one as it is, `encoder: {name: small, depth: 4}` changes a value of it.
  A name given as a flag starts afresh: what the recipe says below that field is dropped.
* `{"positional": True}` lets a value be given without its flag.

Tyro says what each type accepts and prints `--help`. It does not read the arguments itself: it knows alternatives only
as sub-commands, it answers mistakes with boxes of several lines and an exit, and text cannot carry all that YAML can
(the word "None", texts that begin with a dash). Here every mistake is a ValueError of one line.
"""

import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_type_hints

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Config = TypeVar("Config")
_LIST = "tag:yaml.org,2002:seq"


def parse(cls: type[Config], args: Sequence[str] = (), recipe: str | Path | None = None, prog: str = "") -> Config:
    """Fill the config `cls` from its defaults, then the recipe, then the flags and positional arguments in `args`.

    Args:
        cls: a frozen dataclass.
        args: the command line after the command and the recipe; `--help` among them prints the options and exits.
        recipe: a YAML file that states differences from the defaults.
        prog: what the help calls the command.

    Raises:
        ValueError: an unknown option, a value of the wrong type or a missing one, in one line.
        FileNotFoundError: there is no such recipe.
    """
    schema = _Schema(cls, {} if recipe is None else read(Path(recipe)), args, str(recipe))
    values = {path: schema.recipe_value(path, value) for path, value in schema.given.items()}
    if {"-h", "--help"} & set(args):
        schema.print_help(values, prog)
    return schema.build(values | schema.argument_values(args))


def dump(config: Any) -> str:
    """Write the complete config as YAML that `parse` reads back to an equal one."""
    return yaml.dump(_plain(config, None), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass(frozen=True)
class _Option:
    """One value of a config.

    Attributes:
        spec: what the type accepts, and how texts become a value of it; `counts` says how many it takes, fewest first.
        default: the value where nothing is given, or MISSING.
        switch: whether it is a plain bool: `--flag`, `--no-flag`.
        positional: whether it may be given without its flag.
    """

    spec: PrimitiveConstructorSpec[Any]
    default: Any
    switch: bool
    positional: bool

    @property
    def expected(self) -> str:
        return "true or false" if self.switch else self.spec.metavar

    @property
    def counts(self) -> tuple[int, ...] | range:
        nargs = self.spec.nargs
        return range(sys.maxsize) if nargs == "*" else nargs if isinstance(nargs, tuple) else (nargs,)

    def parse(self, texts: Sequence[str], shown: str, got: str) -> Any:
        """Turn texts into a value, or say what is wrong with what the option `shown` has `got`."""
        known = self.spec.choices
        unknown = [text for text in texts if known is not None and text not in known]
        if len(texts) in self.counts and not unknown:
            with suppress(ValueError):
                return self.spec.instance_from_str(list(texts))
        hint = _suggestion(unknown, known or ())
        raise ValueError(f"option {shown} expects {self.expected}, got {got or 'nothing'}{hint}")


class _Schema:
    """The options of a config once its choices are made.

    Args:
        cls: the config.
        given: the values of the recipe by path.
        args: the command line, of which only the names of choices matter here.
        recipe: what messages call the recipe.
    """

    def __init__(self, cls: type, given: Mapping[str, Any], args: Sequence[str], recipe: str) -> None:
        self.options: dict[str, _Option] = {}  # by path, as are the others; "" is the config itself
        self.groups: dict[str, type] = {}
        self.choices: dict[str, Mapping[str, Any]] = {}
        self.chosen: dict[str, str] = {}
        self.given, self._recipe = dict(given), recipe  # without the names of choices, once they are made
        self._names = _first_values(args)
        self._add(cls, MISSING, "")

    def _add(self, cls: Any, default: Any, group: str) -> None:
        """Register the dataclass `cls`, whose values default to those of `default`."""
        self.groups[group] = cls
        for path, item, hint in _members(cls, group):
            fresh = item.default if item.default_factory is MISSING else item.default_factory()
            value = getattr(default, item.name, fresh)
            if "choices" in item.metadata:
                self.choices[path] = item.metadata["choices"]
                value = self._choose(path, value)
                self._add(type(value), value, path)
            elif is_dataclass(hint):
                self._add(hint, value, path)
            else:
                spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(hint, set()))
                if not isinstance(spec, PrimitiveConstructorSpec):
                    raise TypeError(f"{cls.__name__}.{item.name}: a config cannot hold {hint}")
                self.options[path] = _Option(spec, value, hint is bool, item.metadata.get("positional", False))

    def _choose(self, path: str, default: Any) -> Any:
        """Take the value that a flag, else the recipe, else the default names for the field at `path`."""
        known = self.choices[path]
        spellings = (path, f"{path}.name")
        recipe = [self.given.pop(spelling) for spelling in spellings if spelling in self.given]
        flag = [self._names[spelling] for spelling in spellings if spelling in self._names]
        if flag:
            self.given = {key: value for key, value in self.given.items() if not key.startswith(f"{path}.")}
        elif not recipe:
            self.chosen[path] = _name_of(default, known)
            return default
        name = (flag or recipe)[-1]
        if not isinstance(name, str) or name not in known:
            shown = f"'--{_dashed(path)}'" if flag else f"'{path}' in {self._recipe}"
            hint = _suggestion([name], known) if isinstance(name, str) else "; a name is text"
            raise ValueError(f"option {shown} is one of {', '.join(known)}, got {_written(name)}{hint}")
        self.chosen[path] = name
        return known[name]

    def recipe_value(self, path: str, value: Any) -> Any:
        """Check one value of the recipe."""
        shown = f"'{path}' in {self._recipe}"
        if path not in self.options:
            self._refuse(path, shown, str)
        option = self.options[path]
        if option.spec.nargs == "*" and not isinstance(value, tuple | None):
            value = (value,)
        leaves = _leaves(value)
        if all(isinstance(leaf, str | None) for leaf in leaves) and option.spec.is_instance(value):
            return value
        parsed = option.parse([str(leaf) for leaf in leaves], shown, _written(value))
        if not _same_kind(value, parsed):
            raise ValueError(f"option {shown} expects {option.expected}, got {_written(value)}; put text in quotes")
        return parsed

    def argument_values(self, args: Sequence[str]) -> dict[str, Any]:
        """Check the flags and the positional arguments."""
        values: dict[str, Any] = {}
        loose: list[str] = []
        tokens = list(args)
        while tokens:
            token = tokens.pop(0)
            if token == "--":
                loose += tokens
                break
            if not _is_flag(token):
                loose.append(token)
                continue
            flag, equals, text = token.partition("=")
            path, shown = _path(flag), f"'{flag}'"
            switch = path if path in self.options else re.sub(r"(^|\.)no_", r"\1", path, count=1)
            if path.removesuffix(".name") in self.choices:
                del tokens[: 0 if equals else 1]
            elif switch in self.options and self.options[switch].switch:
                if equals:
                    raise ValueError(f"option {shown} takes no value, got {text}; leave out ={text}")
                values[switch] = switch == path
            elif path in self.options:
                texts = [text] if equals else _take(tokens, self.options[path].counts[-1])
                values[path] = self.options[path].parse(texts, shown, " ".join(texts))
            else:
                self._refuse(path, shown, lambda known: f"--{_dashed(known)}")
        for path, option in self.options.items():
            if option.positional and loose:
                texts, loose = loose[: option.counts[-1]], loose[option.counts[-1] :]
                values[path] = option.parse(texts, f"'{path.upper()}'", " ".join(texts))
        if loose:
            hint = "a recipe follows the command" if loose[0].endswith((".yaml", ".yml")) else "options begin with --"
            raise ValueError(f"unexpected argument '{loose[0]}'; {hint}")
        return values

    def _refuse(self, path: str, shown: str, spell: Callable[[str], str]) -> NoReturn:
        """Say that there is no option at `path`, and what there is."""
        known = [*self.options, *self.choices]
        if path in self.groups:
            below = next(name for name in known if name.startswith(f"{path}."))
            raise ValueError(f"option {shown} is a group, not a value; give its options, such as '{spell(below)}'")
        group, _, name = path.rpartition(".")
        if any(hasattr(choice, name) for choice in self.choices.get(group, {}).values()):
            raise ValueError(f"option {shown} does not belong to {group} '{self.chosen[group]}'")
        raise ValueError(f"unknown option {shown}{_suggestion([path], known, spell)}")

    def build(self, values: Mapping[str, Any], group: str = "") -> Any:
        """Make the config of a group from checked values by path."""
        kwargs: dict[str, Any] = {}
        for path, item, _ in _members(self.groups[group], group):
            if path in self.groups:
                kwargs[item.name] = self.build(values, path)
                continue
            option = self.options[path]
            kwargs[item.name] = values.get(path, option.default)
            if kwargs[item.name] is MISSING:
                shown = path.upper() if option.positional else f"--{_dashed(path)}"
                raise ValueError(f"missing {shown} ({option.expected}); see --help")
        try:
            return self.groups[group](**kwargs)
        except ValueError as error:
            raise ValueError(f"{group}: {error}" if group else str(error)) from error

    def print_help(self, values: Mapping[str, Any], prog: str) -> NoReturn:
        """Print every option, with the choices made and the values of the recipe as defaults, and exit."""
        view = self._view(values, "")
        tyro.cli(type(view), default=view, prog=prog, args=["--help"], config=(tyro.conf.AvoidSubcommands,))
        raise SystemExit(0)

    def _view(self, values: Mapping[str, Any], group: str) -> Any:
        """Make a stand-in of a group for tyro to print: unchecked, blank where a value is missing, choices by name."""
        cls = self.groups[group]
        kwargs: dict[str, Any] = {}
        shown: list[Any] = []
        for path, item, hint in _members(cls, group):
            if path in self.choices:
                about = tyro.conf.arg(name=item.name, help=f"choose all options of '{path}' by name.")
                names: Any = Literal[tuple(self.choices[path])]
                chosen = field(kw_only=True, default=self.chosen[path])
                shown.append((f"choice_of_{item.name}", Annotated[names, about], chosen))
            if path in self.groups:
                kwargs[item.name] = view = self._view(values, path)
                kind = Annotated[None, tyro.conf.Suppress] if view is None else type(view)
                shown.append((item.name, kind, field(kw_only=True)))
            else:
                value = values.get(path, self.options[path].default)
                kwargs[item.name] = tyro.MISSING if value is MISSING else value
                if self.options[path].positional:
                    about = tyro.conf.arg(metavar=path.upper())
                    shown.append((item.name, Annotated[hint, tyro.conf.Positional, about], field(kw_only=True)))
        if not is_dataclass(cls):
            return cls()
        unchecked = {"__post_init__": lambda self: None, "__doc__": cls.__doc__}
        return make_dataclass(cls.__name__, shown, bases=(cls,), frozen=True, namespace=unchecked)(**kwargs)


def _members(cls: type, group: str) -> Iterator[tuple[str, "Field[Any]", Any]]:
    """Yield path, field and type of each value of a dataclass; none for None, which a choice may be."""
    if is_dataclass(cls):
        hints = get_type_hints(cls)
        for item in fields(cls):
            if item.init:
                yield f"{group}.{item.name}".lstrip("."), item, hints[item.name]


def _name_of(value: Any, choices: Mapping[str, Any]) -> str:
    """Return the name of the choice that `value` was made from: of those of its type the one with most equal values."""
    items = [item.name for _, item, _ in _members(type(value), "")]
    same = [name for name, choice in choices.items() if type(choice) is type(value)]
    if not same:
        raise ValueError(f"{value} is of the kind of none of {', '.join(choices)}")
    return max(same, key=lambda name: sum(getattr(choices[name], item) == getattr(value, item) for item in items))


def _dashed(path: str) -> str:
    return path.replace("_", "-")


def _path(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _is_flag(token: str) -> bool:
    """Tell flags from values: -5 and -inf are values."""
    return re.match(r"--|-(?!inf|nan)[a-z]", token, re.IGNORECASE) is not None


def _take(tokens: list[str], most: int) -> list[str]:
    """Remove and return the values in front of the next flag."""
    taken = list(itertools.takewhile(lambda token: not _is_flag(token), tokens[:most]))
    del tokens[: len(taken)]
    return taken


def _first_values(args: Sequence[str]) -> dict[str, str]:
    """Map each flag in `args` to the text right after it."""
    values = {}
    for token, following in itertools.pairwise([*args, ""]):
        if token == "--":
            break
        if _is_flag(token):
            flag, equals, text = token.partition("=")
            values[_path(flag)] = text if equals else following
    return values


def _suggestion(unknown: Sequence[str], known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    """Say "; did you mean …?" of the first unknown name that is like a known one or like the end of one."""
    whole = {name.lower(): name for name in known}
    ends = {name.rpartition(".")[2]: name for name in reversed(whole.values())}
    for name in unknown:
        for names, like in ((whole, name.lower()), (ends, name.rpartition(".")[2])):
            for near in difflib.get_close_matches(like, names, 1):
                return f"; did you mean '{spell(names[near])}'?"
    return ""


class _Loader(yaml.SafeLoader):
    """Reads lists as tuples, and a key that stands twice as a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands here twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))


class _Dumper(yaml.SafeDumper):
    """Writes tuples as short lists, paths as text, and everything where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor(_LIST, _Loader.construct_tuple)
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_sequence(_LIST, value, flow_style=True))
_Dumper.add_multi_representer(PurePath, lambda dumper, value: dumper.represent_str(str(value)))


def read(path: Path) -> dict[str, Any]:
    """Read a recipe: {"encoder.depth": 4, …}."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise ValueError(f"cannot read {where}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"a recipe is lines of 'option: value', but {path} holds {_written(content)}")
    return dict(flatten(content or {}, "", path))


def flatten(content: Mapping[Any, Any], group: str, recipe: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by path."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"option names are text, got {_written(key)} in {recipe}; put it in quotes if it is one")
        path = f"{group}{key}"
        yield from flatten(value, f"{path}.", recipe) if isinstance(value, dict) else [(path, value)]


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple) else [value]


def _same_kind(value: Any, parsed: Any) -> bool:
    """Check that lists stayed lists, and that no number, bool or date became text: 010, no and 1.10 would change."""
    if isinstance(value, tuple) or isinstance(parsed, tuple | list):
        pair = isinstance(value, tuple) and isinstance(parsed, tuple | list) and len(value) == len(parsed)
        return pair and all(map(_same_kind, value, parsed))
    return isinstance(value, str) or not isinstance(parsed, str | PurePath)


def _written(value: Any) -> str:
    """Show a value as YAML, on one line."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=sys.maxsize).partition("\n")[0]


def _plain(value: Any, choices: Mapping[str, Any] | None) -> Any:
    """Turn a config into mappings, with the name of each choice."""
    named = {"name": _name_of(value, choices)} if choices else {}
    if not is_dataclass(value):
        return named or value
    items = [item for _, item, _ in _members(type(value), "")]
    return named | {item.name: _plain(getattr(value, item.name), item.metadata.get("choices")) for item in items}
