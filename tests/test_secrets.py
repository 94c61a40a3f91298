"""No file of the tree holds a credential, and the scan finds those that are planted."""

import base64
import random
import re
import string
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NAMED = (
    r"(?:api_?key|access_?key|secret|token|passwd|password|pwd|credential|auth|wandb|bearer)\w*[\"']?\]?\s*$"  # what ends before a value
)
PATTERNS = {  # kind -> (words of which one is there, in lower case; the pattern; what stands before it, in lower case)
    "AWS access key": (("akia", "asia", "agpa", "aida", "aroa"), r"(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{16}\b", ""),
    "AWS secret key": (("aws",), r"[\"'=:\s][A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])", r"aws[^\n]{0,30}$"),
    "Google API key": (("aiza",), r"AIza[0-9A-Za-z_-]{35}\b", ""),
    "service account": (("private_key_id",), r"\"private_key_id\"\s*:\s*\"[0-9a-f]{40}\"", ""),
    "GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
        "",
    ),
    "GitLab token": (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}", ""),
    "Hugging Face token": (("hf_",), r"\bhf_[A-Za-z0-9]{30,}\b", ""),
    "OpenAI or Anthropic key": (("sk-",), r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}", ""),
    "Slack token": (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}", ""),
    "wandb key": (("wandb", "weights & biases"), r"\b[0-9a-f]{40}\b", r"(?:wandb|weights & biases)[^\n]{0,60}$"),
    "40 hexadecimal digits under a key's name": (("key", "token", "secret", "auth"), r"[:=,]\s*[\"']?[0-9a-f]{40}\b", _NAMED),
    "private key": (("private key-----",), r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----", ""),
    "JSON web token": (("eyj",), r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", ""),
    "bearer": (("authorization",), r"[:=,]\s*[\"']?(?:[Bb]earer|[Bb]asic)\s+[A-Za-z0-9._~+/=-]{12,}", r"authorization[\"']?\s*$"),
    "credentials in an address": (("://",), r"://[^/\s:@\"'{}<>$]+:[^/\s:@\"'{}<>$]{6,}@", ""),
    "password or token as text": (
        ("=", ":"),
        r"[:=]\s*[\"'](?=[^\"']*[0-9])(?![^\"']*\.(?:safetensors|json|txt)[\"'])[A-Za-z0-9+/_.!@#%^&*=-]{16,}[\"']",
        _NAMED,
    ),
}
_COMPILED = {name: (words, re.compile(pattern), before and re.compile(before)) for name, (words, pattern, before) in PATTERNS.items()}
_MOST = 2_000_000  # bytes of a file that are looked at
_CLEARLY_NONE = re.compile(r"(?i)example|placeholder|your|xxxx|dummy|fake|[<{$]")


def files(root: Path) -> list[Path]:
    """What git tracks; where there is no git, everything but what it would not track."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [root / name for name in listed.stdout.split("\0") if name]
    left_out = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "workdirs"}
    return [path for path in sorted(root.rglob("*")) if not left_out & set(path.relative_to(root).parts)]


def suspects(root: Path) -> list[str]:
    """file:line: kind, of whatever looks like a credential; the credential itself is not repeated."""
    found = []
    for path in files(root):
        if not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as file:
            data = file.read(_MOST)
        if b"\0" in data[:4096]:
            continue
        text = data.decode("utf-8", "replace")
        lower = text.lower() if text.isascii() else "".join(letter.lower() if letter.isascii() else letter for letter in text)
        for name, (words, pattern, before) in _COMPILED.items():
            if not any(word in lower for word in words):
                continue
            for match in pattern.finditer(text):
                start = match.start()
                if (not before or before.search(lower, max(start - 100, 0), start)) and not _CLEARLY_NONE.search(match[0]):
                    found.append(f"{path.relative_to(root)}:{text.count(chr(10), 0, start) + 1}: {name}")
    return found


def test_defect_02_no_file_holds_a_key():
    """Edit-R2's script holds the key of a logging service."""
    assert suspects(ROOT) == []


def drawn(letters: str, count: int) -> str:
    return "".join(random.Random(count).choices(letters, k=count))


HEX, UPPER, MIXED = "0123456789abcdef", string.ascii_uppercase + string.digits, string.ascii_letters + string.digits
PLANTED = {  # put together here, so that this file holds none
    "AWS access key": "key = '" + "AK" + "IA" + drawn(UPPER, 16) + "'",
    "AWS secret key": "aws_secret_access_key = " + drawn(MIXED, 40),
    "Google API key": "AI" + "za" + drawn(MIXED, 35),
    "service account": '{"private_key' + '_id": "' + drawn(HEX, 40) + '"}',
    "GitHub token": "gh" + "p_" + drawn(MIXED, 36),
    "GitLab token": "gl" + "pat-" + drawn(MIXED, 20),
    "Hugging Face token": "login('h" + "f_" + drawn(MIXED, 34) + "')",
    "OpenAI or Anthropic key": "s" + "k-proj-" + drawn(MIXED, 40),
    "Slack token": "xo" + "xb-" + drawn(string.digits, 12) + "-" + drawn(MIXED, 24),
    "wandb key": "wandb.login(key='" + drawn(HEX, 40) + "')",
    "40 hexadecimal digits under a key's name": "api_" + "key: " + drawn(HEX, 40),
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----\n" + base64.b64encode(b"0" * 48).decode(),
    "JSON web token": "ey" + "J" + drawn(MIXED, 20) + ".ey" + "J" + drawn(MIXED, 20) + "." + drawn(MIXED, 20),
    "bearer": "headers = {'Authori" + "zation': 'Bearer " + drawn(MIXED, 24) + "'}",
    "credentials in an address": "postgres" + "://admin:" + drawn(MIXED, 12) + "@db/x",
    "password or token as text": "PASS" + "WORD = '" + drawn(MIXED, 20) + "'",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_planted_one_is_found_by_file_and_line(tmp_path, name):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "settings.yaml").write_text(f"# harmless\n\n{PLANTED[name]}\n")
    (tmp_path / "harmless.py").write_text('token_env = "JUDGE_TOKEN"\nkey = hashlib.sha256(b"").hexdigest()\npassword = os.environ["P"]\n')
    assert f"deep/settings.yaml:3: {name}" in suspects(tmp_path)
    assert all(found.startswith("deep/settings.yaml:3: ") for found in suspects(tmp_path))


def test_git_s_list_is_taken_where_there_is_one(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "tracked.txt").write_text(PLANTED["GitHub token"])
    (tmp_path / "scratch.txt").write_text(PLANTED["GitHub token"])
    subprocess.run(["git", "-C", str(tmp_path), "add", "tracked.txt"], check=True)
    assert suspects(tmp_path) == ["tracked.txt:1: GitHub token"]
