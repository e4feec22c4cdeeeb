"""Encodings are told from a few lines of text, and every guess is reported."""

from __future__ import annotations

import pytest

from ffmpeg_ops.engine.subtitles.encodings import decode

TEXTS = {
    "windows-1252": [
        "Já é manhã\nAção, coração!",
        "¿Qué tal? ¡Mañana!",
        "Ça va, l’été à Noël…",
        "Schöne Grüße",
        "Perché è così",
        "Jag är på väg, så ær det",
    ],
    "windows-1250": [
        "Cześć, jak się masz?\nNie wiem, żółw.",
        "Dobrý den, příště řeknu",
        "Szőlő és tűz, köszönöm",
        "Kuća, đak i šuma",
    ],
    "windows-1254": ["Nasılsın? Şimdi ne yapıyorsun?", "İstanbul'da güneş doğuyor"],
    "windows-1251": ["Привет, как дела?\nЯ не знаю.", "НИКОГДА больше", "Її ім’я — Єва"],
    "koi8-u": ["Привет, как дела?\nЯ не знаю."],
    "cp866": ["Привет, как дела?\nЯ не знаю."],
    "windows-1253": ["Γεια σου, τι κάνεις;\nΔεν ξέρω."],
    "windows-1255": ["שלום, מה שלומך?\nאני לא יודע"],
    "windows-1256": ["مرحبا كيف حالك؟\nلا أعرف ماذا أقول"],
    "cp874": ["สวัสดีครับ คุณสบายดีไหม"],
    "cp932": ["こんにちは、元気ですか\nわかりません", "東京へ行くカメラ"],
    "euc_jp": ["こんにちは、元気ですか\nわかりません"],
    "gb18030": ["你好，你怎么样？\n我不知道该说什么"],
    "big5": ["你好，你怎麼樣？\n我不知道該說什麼"],
    "cp949": ["안녕하세요 어떻게 지내세요\n모르겠습니다"],
    "utf-16-le": ["Bom dia, ação", "Привет, как дела?"],
    "utf-16-be": ["Bom dia, ação"],
}


def srt(text: str) -> str:
    return "".join(
        f"{i}\r\n00:00:0{i},000 --> 00:00:0{i},900\r\n{line}\r\n\r\n" for i, line in enumerate(text.split("\n"), 1)
    )


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_the_encoding_is_told_from_the_text(encoding: str, text: str) -> None:
    warnings: list[str] = []
    assert decode(srt(text).encode(encoding), warnings.append) == srt(text)
    assert len(warnings) == 1 and warnings[0].endswith(f"guessed as {encoding}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_no_guess(encoding: str) -> None:
    warnings: list[str] = []
    assert decode(srt("Já é Привет").encode(encoding), warnings.append) == srt("Já é Привет") and not warnings


def test_a_wrong_byte_in_utf_8_stays_one() -> None:
    warnings: list[str] = []
    raw = srt("Já é manhã, coração — às três").encode().replace(b"manh", b"man\xe9h")
    assert decode(raw, warnings.append) == srt("Já é man\ufffdhã, coração — às três")
    assert warnings == ["the subtitles are UTF-8 with 1 wrong byte, shown as \ufffd"]
