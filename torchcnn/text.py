"""Text for the terminal and for pictures: tables, names that cannot be printed."""


def table(rows: list[list[str]], left: set[int]) -> str:
    """Align columns, those of `left` to the left and the others, numbers, to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def printable(text: str) -> str:
    """Replace what no font has: bytes of a file name that are no text, control characters."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in whole)
