"""Text form, in: reads what `ir.printer` writes. Types are inferred again and compared.

Constants that are printed by digest are looked up in `weights`; those not found stay `Absent`.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from types import UnionType

import numpy as np

from optc.ir.builder import Builder
from optc.ir.constant import Absent, Constant, Seed, constant, from_floats, splat
from optc.ir.diagnostics import NOWHERE, Loc
from optc.ir.graph import Graph, Node, Value
from optc.ir.lexer import Cursor, Token
from optc.ir.module import ExitIf, Flow, Module, Port, Run, State, Step, module_of
from optc.ir.ops import OP_OF
from optc.ir.ops.base import Op, OpError, op_name
from optc.ir.structure import Items, Nesting, Structure
from optc.ir.types import TensorType, parse_type

Weights = Mapping[str, np.ndarray]
NAMES = ("word", "number", "type")  # the kinds of token that may be a name
MAX_DEPTH = 64  # nested tuples and tasks deeper than this are refused, not recursed into


def parse_module(text: str, *, weights: Weights | None = None, name: str = "<text>") -> Module:
    """Read a module, or a single graph as a module that runs it; raises E0101."""
    return _Parser(text, weights or {}, name).module()


class _Parser(Cursor):
    def __init__(self, text: str, weights: Weights, name: str) -> None:
        super().__init__(text, name)
        self.weights = weights
        self.depth = 0

    # Module -----------------------------------------------------------------------------------

    def module(self) -> Module:
        bare = self.next.text == "graph"
        result = module_of(self.graph()) if bare else self.whole_module()
        self.take("end", "end of text")
        return result

    def whole_module(self) -> Module:
        self.expect("module")
        name = self.take("symbol", "@name").text[1:]
        self.expect("{")
        ports: dict[str, list[Port]] = {"input": [], "output": []}
        states: list[State] = []
        while self.next.text in ("input", "output", "state"):
            kind = self.take("word").text
            port = self.name()
            if kind == "state":
                self.expect("=")
                states.append(State(port, self.constant()))
            else:
                self.expect(":")
                ports[kind].append(Port(port, self.tensor_type()))
        returns = self.structure() if self.accept("returns") else None
        self.expect("flow")
        self.expect("{")
        steps: list[Step] = []
        while not self.accept("}"):
            steps.append(self.step())
        graphs: list[Graph] = []
        while not self.accept("}"):
            graphs.append(self.graph())
        inputs, outputs = tuple(ports["input"]), tuple(ports["output"])
        flow = Flow(tuple(steps))
        return Module(name, inputs, outputs, tuple(states), tuple(graphs), flow, returns)

    def structure(self) -> Structure:
        """A name, `none`, `(a, b)`, `[a, b]` or `{"key": a}`, nested as deep as it gets."""
        opening = self.next
        closing = {"(": ")", "[": "]", "{": "}"}.get(opening.text)
        if closing is None or opening.kind == "string":
            name = self.name()
            return None if name == "none" else name
        self.position += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail("the outputs are nested too deeply", opening)
        if closing == "}":
            pairs = self.listed(self.entry, closing)
            if len(dict(pairs)) != len(pairs):
                raise self.fail("a key stands twice in this dictionary", opening)
            result = Items(
                Nesting.DICT, tuple(part for _, part in pairs), tuple(key for key, _ in pairs)
            )
        else:
            nesting = Nesting.TUPLE if closing == ")" else Nesting.LIST
            result = Items(nesting, tuple(self.listed(self.structure, closing)))
        self.depth -= 1
        return result

    def entry(self) -> tuple[str, Structure]:
        key = self.string()
        self.expect(":")
        return key, self.structure()

    def step(self) -> Step:
        if self.next.text == "exit_if" and self.peek.kind in NAMES:
            return self.exit_if()
        outputs = [] if self.next.text == "=" else [self.name()]
        while self.accept(","):
            outputs.append(self.name())
        self.expect("=")
        self.expect("run")
        graph = self.take("symbol", "@graph").text[1:]
        self.expect("(")
        return Run(graph, tuple(self.listed(self.name, ")")), tuple(outputs))

    def exit_if(self) -> ExitIf:
        """Results go on after each comma, since nothing closes their list."""
        self.expect("exit_if")
        condition = self.name()
        self.expect("return")
        if self.next.kind not in NAMES or self.starts_step():
            return ExitIf(condition, ())
        results = [self.name()]
        while self.accept(","):
            results.append(self.name())
        return ExitIf(condition, tuple(results))

    def starts_step(self) -> bool:
        """Whether a step begins here: `exit_if name`, or names up to `=`."""
        if self.next.text == "exit_if" and self.peek.kind in NAMES:
            return True
        tokens = self.source.tokens
        place = self.position
        while tokens[place].kind in NAMES and tokens[place + 1].text == ",":
            place += 2
        return tokens[place].kind in NAMES and tokens[place + 1].text == "="

    def name(self) -> str:
        if self.next.kind not in NAMES:
            raise self.fail(f"expected a name, found {self.next.text or 'end of text'!r}")
        return self.take(self.next.kind).text

    def tensor_type(self) -> TensorType:
        token = self.take("type", "a type such as 1x64xf32")
        return parse_type(token.text)

    # Graph ------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail("tasks are nested too deeply")
        self.expect("graph")
        builder = Builder(self.take("symbol", "@name").text[1:])
        scope: dict[str, Value] = {}
        self.expect("(")
        self.listed(lambda: self.parameter(builder, scope), ")")
        self.expect("{")
        while self.next.text != "return":
            self.statement(builder, scope)
        self.expect("return")
        outputs: list[Value] = []
        while self.next.kind == "value":
            outputs.append(self.use(scope))
            if not self.accept(","):
                break
        self.expect("}")
        self.depth -= 1
        return builder.build(outputs, keep_unused=True)

    def parameter(self, builder: Builder, scope: dict[str, Value]) -> None:
        token = self.take("value", "%name")
        self.expect(":")
        self.define(scope, token, builder.input(self.tensor_type(), token.text[1:]))

    def statement(self, builder: Builder, scope: dict[str, Value]) -> None:
        targets = [self.take("value", "%name = ... or return")]
        while self.accept(","):
            targets.append(self.take("value", "%name"))
        self.expect("=")
        if self.accept("constant"):
            content = self.constant()
            value = builder.constant(content, targets[0].text[1:])
            self.define(scope, targets[0], value)
            return
        self.node(builder, scope, targets)

    def node(self, builder: Builder, scope: dict[str, Value], targets: list[Token]) -> None:
        word = self.take("word", "an op")
        cls = OP_OF.get(word.text)
        if cls is None:
            near = get_close_matches(word.text, OP_OF, 3)
            raise self.fail(f"unknown op {word.text!r}" + _offer(near), word)
        self.expect("(")
        inputs = self.listed(lambda: self.use(scope), ")")
        attributes = self.attributes(cls) if self.accept("{") else {}
        self.expect(":")
        printed = self.types()
        loc = self.loc()
        if cls.__name__ == "Task":
            self.expect("{")
            attributes["body"] = self.graph()
            self.expect("}")
        try:
            op = cls(**attributes)
            inferred = op.infer(*(value.type for value in inputs))
        except (OpError, TypeError, IndexError, ValueError) as problem:
            raise self.fail(str(problem), word) from None
        if inferred != printed:
            raise self.fail(f"{op.name} gives {_types(inferred)}, not {_types(printed)}", word)
        if len(targets) != len(inferred):
            raise self.fail(f"{op.name} has {len(inferred)} outputs, not {len(targets)}", word)
        pairs = zip(inferred, targets, strict=True)
        outputs = tuple(Value(type, token.text[1:]) for type, token in pairs)
        builder.append(Node(op, tuple(inputs), outputs, loc))
        for token, value in zip(targets, outputs, strict=True):
            self.define(scope, token, value)

    def define(self, scope: dict[str, Value], token: Token, value: Value) -> None:
        if token.text in scope:
            raise self.fail(f"{token.text} is defined twice", token)
        scope[token.text] = value

    def use(self, scope: dict[str, Value]) -> Value:
        token = self.take("value", "%name")
        if token.text not in scope:
            raise self.fail(f"{token.text} is not defined before its use", token)
        return scope[token.text]

    def types(self) -> tuple[TensorType, ...]:
        if self.accept("("):
            return tuple(self.listed(self.tensor_type, ")"))
        return (self.tensor_type(),)

    def loc(self) -> Loc:
        if not self.accept("@"):
            return NOWHERE
        file = self.string()
        self.expect(":")
        line = self.literal()
        scope = self.string() if self.accept("in") else ""
        return Loc(file, line if isinstance(line, int) else 0, scope)

    # Attributes and constants -----------------------------------------------------------------

    def attributes(self, cls: type[Op]) -> dict[str, object]:
        known = _field_types(op_name(cls))
        result: dict[str, object] = {}
        for token, value in self.listed(self.attribute, "}"):
            if token.text not in known:
                near = get_close_matches(token.text, known, 3)
                raise self.fail(f"unknown attribute {token.text!r}" + _offer(near), token)
            try:
                result[token.text] = _convert(value, known[token.text])
            except ValueError as problem:
                raise self.fail(f"{token.text}: {problem}", token) from None
        return result

    def attribute(self) -> tuple[Token, object]:
        token = self.take("word", "an attribute")
        self.expect("=")
        return token, self.literal()

    def literal(self) -> object:
        token = self.next
        if self.accept("("):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.fail("tuples are nested too deeply", token)
            items = tuple(self.listed(self.literal, ")"))
            self.depth -= 1
            return items
        if token.kind == "string":
            return self.string()
        if token.kind == "number":
            self.position += 1
            return _number(token.text)
        if token.kind in ("word", "type"):
            self.position += 1
            return {"true": True, "false": False, "none": None}.get(token.text, token.text)
        raise self.fail(f"expected a value, found {token.text or 'end of text'!r}")

    def string(self) -> str:
        text = self.take("string").text[1:-1]
        pieces = text.split("\\\\")
        return "\\".join(piece.replace("\\n", "\n").replace('\\"', '"') for piece in pieces)

    def constant(self) -> Constant:
        self.expect("{")
        key, value = self.attribute()
        self.expect("}")
        self.expect(":")
        type = self.tensor_type()
        try:
            return self.content(key.text, value, type)
        except (ValueError, TypeError, OverflowError) as problem:
            raise self.fail(f"constant: {problem}", key) from None

    def content(self, key: str, value: object, type: TensorType) -> Constant:
        match key, value:
            case "splat", bool() | int() | float():
                return splat(value, type)
            case "seed", int() if value >= 0:
                return Constant(type, Seed(value))
            case "values", tuple():
                array = np.array(value, dtype=_wide(type)).reshape(type.shape)
                return from_floats(array, type.dtype)
            case "digest", str():
                found = self.weights.get(value)
                return (
                    Constant(type, Absent(value)) if found is None else constant(found, type.dtype)
                )
        raise ValueError(f"expected splat, seed, values or digest, found {key}={value!r}")


def _wide(type: TensorType) -> np.dtype:
    if type.dtype.is_float:
        return np.dtype("float64")
    return np.dtype("int64" if type.dtype.is_integer else "bool")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _offer(near: list[str]) -> str:
    return f"; did you mean {', '.join(near)}?" if near else ""


def _types(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))


@cache
def _field_types(name: str) -> Mapping[str, object]:
    cls = OP_OF[name]
    hints = typing.get_type_hints(cls, localns={"Graph": Graph})
    return {f.name: hints[f.name] for f in dataclass_fields(cls) if hints[f.name] is not Graph}


def _convert(value: object, wanted: object) -> object:
    """Check a literal against a field's annotation; enums go by value, ints may be floats."""
    origin = typing.get_origin(wanted)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return wanted(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin in (typing.Union, UnionType):
        options = typing.get_args(wanted)
        if any(option is type(value) for option in options):
            return value
        return _convert(value, next(o for o in options if o is not type(None)))
    if origin is tuple and isinstance(value, tuple):
        options = typing.get_args(wanted)
        repeated = len(options) == 2 and options[1] is Ellipsis
        kinds = (options[0],) * len(value) if repeated else options
        if len(kinds) != len(value):
            raise ValueError(f"expected {len(kinds)} items, found {len(value)}")
        return tuple(_convert(item, kind) for item, kind in zip(value, kinds, strict=True))
    if isinstance(wanted, type) and type(value) is wanted:
        return value
    raise ValueError(f"{value!r} is not {getattr(wanted, '__name__', wanted)}")
