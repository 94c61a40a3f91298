"""The questions of the published evaluators: what they ask, in our words. Their answers are free text, read as loosely as theirs.

    kind            asked by          pictures         fields                        read as
    r2_added        Edit-R2           before, after    instruction, object           positive if "yes" occurs in it
    r2_replaced     Edit-R2           before, after    instruction, old, new         likewise
    r2_color        Edit-R2           before, after    object, value                 likewise
    r2_material     Edit-R2           before, after    object, value                 likewise
    ev_added        EdiVal            before, after    object                        likewise
    ev_replaced     EdiVal            before, after    old, new                      likewise
    ev_success      EdiVal            before, after    instruction, object, value,   likewise
                                                       attribute (color, material)
    ev_core_noun    EdiVal            none             name                          the name without colours and materials
    background_is   both              after            value                         positive if "yes" occurs in it
    free_text       both              one              none                          the text, as a substring
    r2_prefix       Edit-R2           source, 0..t     as `prefix` of questions.py   the final-answer tag alone

Each has one language, whatever the run's: the evaluators ask about edits in English, Edit-R2 asks its prefix judges in Chinese. The
wording is ours, and scores depend on wording (a third party saw mean IF move by 6 points): only the arithmetic is the published one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_PAIR = "Picture 1 shows the state before an edit, picture 2 the state after it."
_APPLIED = "Has the instruction been carried out? Reply yes or no."
_UPPER = "Reply with YES or NO only."

_STEPS = (
    "请从第一次编辑开始逐次判断，遇到第一次失败就停止，此时最终答案为 no；全部成功时最终答案为 yes。\n"
    "对第 i 次编辑输出 <answer_i>yes 或 no</answer_i> 和 <reason_i>简短理由</reason_i>，最后输出 <answer_final>yes 或 no</answer_final>。"
)
_RULES = {
    "memory": (
        "第一条指令里含有一条全局规则，从第一次编辑起一直有效。一次编辑成功，当且仅当编辑本身完成，并且本次涉及的物体符合该规则。"
        "规则只要求体现在本次涉及的物体上，不得扩散到其他物体。删除类编辑视为符合规则。给整张图统一染色不算符合颜色规则。"
    ),
    "understanding": (
        "后面的指令使用了代词。一次编辑成功，当且仅当代词所指与方括号中的物体一致，并且编辑完成、取值正确。"
        "it 或 them 指上一次编辑的物体，its 指它的属性，there 指被删除物体原来的位置。第一次编辑只看编辑是否完成。"
    ),
    "plain": "一次编辑成功，当且仅当编辑本身完成。",
}


def _prefix(fields: Mapping[str, Any]) -> str:
    lines = []
    for number, (instruction, formatted) in enumerate(zip(fields["instructions"], fields["formatted"], strict=True), start=1):
        lines.append(f"第 {number} 次编辑：{instruction}" + (f"\n  明确写法：{formatted}" if fields["subset"] == "understanding" else ""))
    return "\n".join(["第一张是原图，后面依次是每次编辑的结果。", *lines, _RULES[fields["subset"]], _STEPS])


TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "r2_added": lambda f: f"{_PAIR} The edit adds a subject; its instruction: {f['instruction']}\n{_APPLIED}",
    "r2_replaced": lambda f: f"{_PAIR} The edit replaces a subject; its instruction: {f['instruction']}\n{_APPLIED}",
    "r2_color": lambda f: f"Does the {f['object']} have the color {f['value']} now? {_UPPER}",
    "r2_material": lambda f: f"Does the {f['object']} consist of {f['value']} now? {_UPPER}",
    "ev_added": lambda f: f"{_PAIR} Is there a {f['object']} in picture 2 that picture 1 does not have? {_UPPER} When in doubt, reply NO.",
    "ev_replaced": lambda f: f"{_PAIR} Has a {f['old']} of picture 1 become a {f['new']} in picture 2? {_UPPER}",
    "ev_success": lambda f: (
        f'{_PAIR} The edit\'s instruction: "{f["instruction"]}"\nJudge whether the edit is a success: the requested change was made, '
        f"completely and accurately, and the result looks natural. {_UPPER}"
    ),
    "ev_core_noun": lambda f: (
        f'Take the words for colors and materials out of the name "{f["name"]}" and leave all others, as in '
        '"small golden spoon" -> "small spoon". Reply with the name that is left, nothing else.'
    ),
    "background_is": lambda f: f"Does the background of this picture show [{f['value']}]? {_UPPER}",
    "free_text": lambda f: "Which text can be read in this picture? Reply with that text, nothing else.",
    "r2_prefix": _prefix,
}
