"""From scores to a dataset: which texts stay (paper section 3.3 and Table 1)."""

from typing import Any

from blip_jax.capfilt.rule import THRESHOLD, Rule, choose, plain_texts


def select(
    rows: list[dict[str, Any]],
    *,
    captions: bool = True,
    filtering: bool = True,
    threshold: float = THRESHOLD,
) -> list[dict[str, Any]]:
    """The kept texts as BLIP's annotation rows, each with its `source`, "web" or "synthetic".

    Web and synthetic texts are judged independently: an image keeps none, some or all.

    Args:
      rows: of `chunks.score_records`.
      captions: take synthetic texts at all (the captioner's half of CapFilt).
      filtering: drop texts whose ITM probability is under `threshold` (the filter's half).
    """
    flat: list[tuple[int, str, str, float]] = []
    for number, row in enumerate(rows):
        if row["status"] == "ok":
            flat.append((number, "web", row["web_text"], row["web_itm"]))
            pairs = zip(row["syn_text"], row["syn_itm"], strict=True)
            flat += [(number, "synthetic", text, itm) for text, itm in pairs]
    flat = [text for text in flat if text[2]]
    texts = plain_texts(
        [number for number, *_ in flat],
        [source == "synthetic" for _, source, *_ in flat],
        [itm for *_, itm in flat],
    )
    rule = Rule(threshold if filtering else 0.0, texts="both" if captions else "web")
    return [
        {key: rows[number][key] for key in ("image", "image_id")}
        | {"caption": text, "source": source}
        for (number, source, text, _), keep in zip(flat, choose(texts, rule), strict=True)
        if keep
    ]


def summary(rows: list[dict[str, Any]], threshold: float = THRESHOLD) -> dict[str, float]:
    """Counts and noise ratios: the share of web and of synthetic texts under the threshold."""
    scored = [row for row in rows if row["status"] == "ok"]
    web = [row["web_itm"] for row in scored]
    synthetic = [itm for row in scored for itm in row["syn_itm"]]
    return {
        "images": len(rows),
        "unreadable": len(rows) - len(scored),
        "web_kept": sum(x >= threshold for x in web),
        "synthetic_kept": sum(x >= threshold for x in synthetic),
        "web_noise": sum(x < threshold for x in web) / max(len(web), 1),
        "synthetic_noise": sum(x < threshold for x in synthetic) / max(len(synthetic), 1),
    }
