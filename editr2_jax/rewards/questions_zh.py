"""The questions of rewards/questions.py in Chinese. Their version is the English ones': a change of wording here raises it, too.

Instructions, names of objects and answers stay in English, whatever language the question is in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_YES_NO = "只回答一个英文单词：yes 或 no。"
_TWO = "第一张图是编辑前的画面，第二张图是编辑后的画面。"
_PREFIX_ANSWER = (
    "请按顺序检查每一次编辑，然后只输出一个 JSON 对象，不要输出别的内容：\n"
    '{"reason": "<最多两句话>", "turns": [{"edit": true 或 false, "rule": true 或 false}, ... 每次编辑一项], '
    '"first_failed_turn": <第一次含有 false 的编辑的编号，没有则为 0>}'
)
_PREFIX_RULES = {
    "memory": (
        "第一条指令里还写明了一条长期有效的规则，从第 1 次编辑起对每次编辑都有效。"
        "edit 为 true 表示这次编辑本身已经完成；rule 为 true 表示这次编辑新增或改动的物体符合该规则，"
        "并且规则没有扩散到其他物体上；给整张图统一染色不算符合颜色规则。"
        "删除物体、移动物体和更换背景不会违反规则，它们的 rule 记为 true。"
    ),
    "understanding": (
        "后面的指令使用了代词，每条指令下方带方括号的写法说明了所指的物体。"
        "rule 为 true 表示编辑作用在所指的物体上，而不是别的物体；edit 为 true 表示编辑已经完成，并且取值正确。"
    ),
    "plain": "edit 为 true 表示这次编辑已经完成；rule 一律为 true。",
}
_GRADES_RULES = {
    "memory": "第一条指令里还写明了一条长期有效的规则，从第 1 次编辑起对每次编辑都有效：违反该规则的编辑最多得 2 分。",
    "understanding": "后面的指令使用了代词，每条指令下方带方括号的写法说明了所指的物体：编辑了别的物体得 1 分。",
    "plain": "",
}
_GRADES_SCALE = (
    "请把每次编辑前后的两张图作比较并打分："
    "5 分为完全按要求完成且画面自然，4 分为完成但有小瑕疵，"
    "3 分为部分完成，2 分为几乎没有完成，1 分为没有完成。"
)
_GRADES_ANSWER = (
    "请按顺序查看每一次编辑，然后只输出一个 JSON 对象，不要输出别的内容：\n"
    '{"reason": "<每次编辑一句话>", "grades": [<1 到 5 的整数>, ... 按顺序每次编辑一个]}'
)


def _session_text(fields: Mapping[str, Any]) -> str:
    lines = []
    for number, (instruction, formatted) in enumerate(zip(fields["instructions"], fields["formatted"], strict=True), start=1):
        lines.append(f"编辑 {number}：{instruction}" + (f"\n  含义：{formatted}" if fields["subset"] == "understanding" else ""))
    opening = "这些图按顺序展示了一次多轮编辑：先是原图，随后是每次编辑的结果。\n"
    return opening + "\n".join(lines)


def _prefix_text(fields: Mapping[str, Any]) -> str:
    return f"{_session_text(fields)}\n{_PREFIX_RULES[fields['subset']]}\n{_PREFIX_ANSWER}"


def _grades_text(fields: Mapping[str, Any]) -> str:
    return "\n".join(part for part in (_session_text(fields), _GRADES_SCALE, _GRADES_RULES[fields["subset"]], _GRADES_ANSWER) if part)


def _read_text(fields: Mapping[str, Any]) -> str:
    place = f"“{fields['carrier']}”上" if fields["carrier"] else "图中"
    form = '{"texts": ["<文字>", ...]}'
    return f"请读出{place}的所有文字。只输出一个 JSON 对象，不要输出别的内容：{form}；如果没有文字，列表为空。"


TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "added": lambda f: f"{_TWO}第二张图里有没有第一张图里没有的“{f['object']}”？{_YES_NO}",
    "replaced": lambda f: f"{_TWO}第一张图里的“{f['old']}”是否已经被换成“{f['new']}”，并且“{f['old']}”不见了？{_YES_NO}",
    "color": lambda f: (
        f"{_TWO}第一张图里的“{f['object']}”在第二张图里是不是 {f['value']} 颜色？如果第一张图里没有“{f['object']}”，请回答 no。{_YES_NO}"
    ),
    "material": lambda f: (
        f"{_TWO}第一张图里的“{f['object']}”在第二张图里的材质是不是（或看起来是不是）{f['value']}？"
        f"如果第一张图里没有“{f['object']}”，请回答 no。{_YES_NO}"
    ),
    "background": lambda f: f"图中的背景是不是“{f['value']}”？{_YES_NO}",
    "read_text": _read_text,
    "prefix": _prefix_text,
    "grades": _grades_text,
}
