"""Three shapes of conversations become one, with tools; what cannot be rendered is refused by name."""

from typing import Any, ClassVar

import pytest

from canonical_rows import broken, prepared

CHAT = [{"role": "user", "content": "2 and 2?"}, {"role": "assistant", "content": "4"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def calling(**function: Any) -> dict[str, Any]:
    """A conversation with a tool call and the tool's answer."""
    call = {"id": "call-1", "type": "function", "function": {"name": "add", **function}}
    return {
        "messages": [
            CHAT[0],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call-1", "content": "4"},
            CHAT[1],
        ],
        "tools": [TOOL],
    }


class TestTools:
    def test_arguments_written_as_json_become_an_object(self) -> None:
        row = prepared(calling(arguments='{"a": 2, "b": 2}'), "Messages")
        assert row["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "call-1", **CALL}]}
        assert row["messages"][2] == {"role": "tool", "content": "4", "tool_call_id": "call-1"}
        assert row["tools"] == [TOOL]

    def test_an_answer_may_be_a_call(self) -> None:
        row = calling(arguments={})
        assert prepared({"messages": row["messages"][:2]}, "Messages")["messages"][-1]["tool_calls"]

    def test_tools_may_be_json_in_a_column_of_strings(self) -> None:
        tools = '[{"name": "add", "parameters": {"type": "object"}}]'
        row = prepared({"messages": CHAT, "tools": tools}, "Messages")
        assert row["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]

    @pytest.mark.parametrize(
        ("row", "field", "found"),
        [
            (calling(arguments="{"), "messages[1].tool_calls[0].function.arguments", "a string that is no JSON"),
            (calling(arguments="[1]"), "messages[1].tool_calls[0].function.arguments", "a list of 1"),
            (calling(arguments="{}", name=""), "messages[1].tool_calls[0].function.name", "an empty string"),
            ({"messages": [CHAT[0], {"role": "tool", "content": "4"}]}, "messages[1].role", "tool"),
            ({"messages": [*calling(arguments={})["messages"][:2], CHAT[1]]}, "messages[2].role", "assistant"),
            ({"messages": CHAT, "tools": "add"}, "tools", "a string that is no JSON"),
            ({"messages": CHAT, "tools": [{}]}, "tools[0]", "an object"),
            ({"messages": [CHAT[0], CHAT[1] | {"audio": {"id": 1}}]}, "messages[1].audio", "an object"),
        ],
    )
    def test_what_no_template_can_render_is_named(self, row: dict[str, Any], field: str, found: str) -> None:
        assert broken(row, "Messages") == (field, found)


class TestShareGPT:
    def test_it_becomes_messages(self) -> None:
        row = {"conversations": [{"from": "human", "value": "2 and 2?"}, {"from": "gpt", "value": "4"}]}
        assert prepared(row, "ShareGPT") == {"messages": CHAT}
        assert prepared({**row, "system": "Be brief."}, "ShareGPT")["messages"][0] == {
            "role": "system",
            "content": "Be brief.",
        }

    def test_function_calls_become_tool_calls(self) -> None:
        turns = [
            {"from": "human", "value": "2 and 2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "4"},
        ]
        messages = prepared({"conversations": turns}, "ShareGPT")["messages"]
        assert messages[1:3] == [
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "4"},
        ]

    @pytest.mark.parametrize(
        ("turns", "field", "found"),
        [
            ([], "conversations", "an empty list"),
            ([{"from": "narrator", "value": "a"}], "conversations[0].from", "a string of 8 characters"),
            ([{"from": "human"}], "conversations[0].value", "nothing"),
            ([{"from": "human", "value": "a"}], "conversations[0].role", "user"),
            ([{"from": "gpt", "value": "a"}], "conversations[0].role", "assistant"),
        ],
    )
    def test_broken_turns_are_named(self, turns: list[Any], field: str, found: str) -> None:
        assert broken({"conversations": turns}, "ShareGPT") == (field, found)


class TestVertex:
    ROW: ClassVar[dict[str, Any]] = {
        "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "2 and "}, {"text": "2?"}]},
            {"role": "model", "parts": [{"text": "4"}]},
        ],
    }

    def test_it_becomes_messages(self) -> None:
        assert prepared(self.ROW, "Vertex") == {"messages": [{"role": "system", "content": "Be brief."}, *CHAT]}

    @pytest.mark.parametrize(
        ("change", "field", "found"),
        [
            ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts", "an empty list"),
            (
                {"contents": [{"role": "user", "parts": [{"fileData": {}}]}]},
                "contents[0].parts[0]",
                "a part of fileData",
            ),
            ({"contents": [{"role": "assistant", "parts": []}]}, "contents[0].role", "a string of 9 characters"),
            ({"systemInstruction": "Be brief."}, "systemInstruction", "a string of 9 characters"),
            ({"tools": [{"functionDeclarations": []}]}, "tools", "a list of 1"),
        ],
    )
    def test_what_is_no_text_is_named(self, change: dict[str, Any], field: str, found: str) -> None:
        assert broken(self.ROW | change, "Vertex") == (field, found)
