"""What each use of a model sees of its parameter tree, which `blip_jax.models.blip` describes."""

from blip_jax.models.layers import Params


def view(text: Params, role: str) -> Params:
    """What the `role` ("encoder" or "decoder") sees of a text tree: its own self-attention.

    A tree that shares everything, or that belongs to one role alone, holds `attention` instead
    of `encoder_attention` and `decoder_attention`.
    """
    blocks = text["blocks"]
    own = blocks[f"{role}_attention"] if f"{role}_attention" in blocks else blocks["attention"]
    shared = {name: blocks[name] for name in ("cross_attention", "mlp") if name in blocks}
    return text | {"blocks": {"attention": own, **shared}}


def encoder_view(params: Params) -> Params:
    """{embeddings, blocks} of the unimodal and of the image-grounded encoder."""
    return view(params["text"], "encoder")


def decoder_view(params: Params) -> Params:
    """{embeddings, blocks, lm_head} of the image-grounded decoder.

    Raises:
      ValueError: the parameters are those of `Blip.working`, which have it as "writer" alone.
    """
    if "writer" in params:
        raise ValueError(
            "these parameters are for inference: a loss, or an export, takes those of a loaded "
            "model (Model.params)"
        )
    own = "text_decoder" if "text_decoder" in params else "text"
    return view(params[own], "decoder")


def encoder_part(params: Params) -> Params:
    """What of a model that writes is not its decoder's alone.

    Of a captioner, which has no encoder (nor a head of ITM), the vision tower.
    """
    if "text_decoder" in params:
        return {name: tree for name, tree in params.items() if name != "text_decoder"}
    if "itm_head" not in params:
        return {name: tree for name, tree in params.items() if name != "text"}
    text = params["text"]
    blocks = {name: tree for name, tree in text["blocks"].items() if name != "decoder_attention"}
    return params | {"text": {"embeddings": text["embeddings"], "blocks": blocks}}


def unimodal_part(params: Params) -> Params:
    """The sub-tree that ITC needs, and the momentum teacher holds."""
    text = encoder_view(params)
    return {
        "vision": params["vision"],
        "text": {
            "embeddings": text["embeddings"],
            "blocks": {k: text["blocks"][k] for k in ("attention", "mlp")},
        },
        "vision_proj": params["vision_proj"],
        "text_proj": params["text_proj"],
    }
