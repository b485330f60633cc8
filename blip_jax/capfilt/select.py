"""From scores to a dataset: which texts stay (paper section 3.3 and Table 1)."""

from typing import Any

THRESHOLD = 0.5  # softmax ITM probability; the authors' answer on what their filter keeps


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
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row["status"] != "ok":
            continue
        texts = [("web", row["web_text"], row["web_itm"])]
        if captions:
            pairs = zip(row["syn_text"], row["syn_itm"], strict=True)
            texts += [("synthetic", text, itm) for text, itm in pairs]
        for source, text, itm in texts:
            if text and (not filtering or itm >= threshold):
                where = {"image": row["image"], "image_id": row["image_id"]}
                kept.append(where | {"caption": text, "source": source})
    return kept


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
