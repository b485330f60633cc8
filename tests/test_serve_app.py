"""The routes of a service, asked in this process."""

import json
import logging
import re

import pytest
import serving
import tiny
from serving import code, picture, text


@pytest.fixture(scope="module")
def ask():
    models = {"tiny": tiny.model(), "asks": tiny.model("vqa")}
    with serving.client(models) as function:
        yield function


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def expected(model, **options):
    return model.caption([tiny.images(1)[0]], **options)[0]


def test_one_picture_sent_in_every_way_has_one_caption(ask, model):
    best = expected(model)[0]
    uri = f"data:image/png;base64,{text(picture())}"
    png = {"headers": {"content-type": "image/png"}, "content": picture()}
    answers = [
        ask("POST", "/v1/captions", json={"image": text(picture())}),
        ask("POST", "/v1/captions", json={"image": [uri], "model": "tiny", "method": "beam"}),
        ask("POST", "/v1/captions", files={"image": picture()}, data={"method": "beam"}),
        ask("POST", "/v1/captions?method=beam", **png),
    ]
    for answer in answers:
        body = answer.json()
        assert answer.status_code == 200 and body["model"] == "tiny"
        ((found,),) = body["results"]
        assert found["text"] == best.text
        assert found["log_prob"] == pytest.approx(best.log_prob, abs=1e-4)
        assert found["probability"] == pytest.approx(best.probability, rel=1e-3)
    blip = ask("POST", "/api/v1/inference/blip", json={"image": uri, "model": "tiny"})
    assert blip.json() == {"caption": best.text}
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "?"}]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 9}
    reply = ask("POST", "/v1/chat/completions", json=chat).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": best.text}
    assert reply["usage"]["total_tokens"] > 0
    assert ask("POST", "/models/tiny", **png).json() == [{"generated_text": best.text}]
    hugging = {"inputs": text(picture()), "parameters": {"max_new_tokens": 20}}
    assert ask("POST", "/models/tiny", json=hugging).json() == [{"generated_text": best.text}]


def test_questions_in_every_dialect(ask):
    (best,) = tiny.model("vqa").answer([tiny.images(1)[0]], "is it red?")[0]
    asked = {"image": text(picture()), "question": "is it red?"}
    found = ask("POST", "/v1/answers", json=asked | {"top_n": 3}).json()
    assert found["model"] == "asks" and len(found["results"][0]) == 3
    assert found["results"][0][0]["text"] == best.text
    assert ask("POST", "/api/v1/inference/blip", json=asked).json() == {"answer": best.text}
    answer, *_ = ask("POST", "/models/asks", json={"inputs": asked}).json()
    assert answer["answer"] == best.text
    assert answer["score"] == pytest.approx(best.probability, rel=1e-3)
    parts = [
        {"type": "text", "text": "is it red?"},
        {"type": "image_url", "image_url": {"url": asked["image"]}},
    ]
    chat = {"messages": [{"role": "user", "content": parts}]}
    reply = ask("POST", "/v1/chat/completions", json=chat).json()
    assert reply["model"] == "asks"
    assert reply["choices"][0]["message"]["content"] == best.text


def test_several_pictures_and_texts(ask, model):
    arrays = [tiny.images(1, seed)[0] for seed in (0, 1)]
    texts = ["a red star", "two dogs"]
    form = {"files": [("image", picture(0)), ("image", picture(1))], "data": {"text": texts}}
    found = ask("POST", "/v1/match", **form).json()["results"]
    matrix = model.match_matrix(arrays, texts)
    for row, itm, itc in zip(found, matrix.itm, matrix.itc, strict=True):
        assert [one["text"] for one in row] == texts
        assert [one["itm"] for one in row] == pytest.approx(itm.tolist(), abs=1e-5)
        assert [one["itc"] for one in row] == pytest.approx(itc.tolist(), abs=1e-5)
    vectors = ask("POST", "/v1/embeddings", **form).json()
    assert vectors["images"][1] == pytest.approx(model.embed_images(arrays)[1].tolist(), abs=1e-5)
    assert vectors["texts"][0] == pytest.approx(model.embed_texts(texts)[0].tolist(), abs=1e-5)
    assert ask("POST", "/v1/embeddings", json={"text": "two dogs"}).json()["images"] == []


def test_an_explanation_has_a_map_a_word(ask):
    body = {"image": text(picture()), "text": "A red star."}
    words = ask("POST", "/v1/explanations", json=body).json()["words"]
    assert [one["word"] for one in words] == ["a", "red", "star"]
    grid = tiny.CONFIG.vision.grid
    assert all([len(row) for row in one["heatmap"]] == [grid] * grid for one in words)


IMAGE = text(picture())
LONG = "red " * 40
REFUSED = [
    ("captions", {"image": IMAGE, "model": "none"}, (404, "model_not_found")),
    ("captions", {"image": IMAGE, "model": "asks"}, (400, "task_not_supported")),
    ("answers", {"image": IMAGE, "question": "?", "model": "tiny"}, (400, "task_not_supported")),
    ("captions", {}, (422, "invalid_request")),
    ("captions", {"image": []}, (422, "invalid_request")),
    ("captions", {"image": IMAGE, "colour": "red"}, (422, "invalid_request")),
    ("captions", {"image": IMAGE, "method": "magic"}, (422, "invalid_request")),
    ("captions", {"image": IMAGE, "method": "greedy", "num_captions": 2}, (422, "invalid_request")),
    ("captions", {"image": IMAGE, "prompt": LONG}, (422, "prompt_too_long")),
    ("captions", {"image": "/etc/passwd"}, (422, "invalid_picture")),
    ("captions", {"image": "../../etc/hosts1"}, (422, "invalid_picture")),
    ("captions", {"image": "file:///etc/passwd"}, (422, "invalid_picture")),
    ("captions", {"image": text(b"/etc/passwd")}, (415, "unsupported_picture")),
    ("captions", {"image": text(b"GIF89a" + bytes(100))}, (415, "unsupported_picture")),
    ("captions", {"image": text(b"%!PS-Adobe-3.0 EPSF")}, (415, "unsupported_picture")),
    ("captions", {"image": text(picture()[:60])}, (422, "damaged_picture")),
    ("captions", {"image": text(serving.bomb())}, (413, "too_many_pixels")),
    ("captions", {"image": text(serving.bomb(9000, 9000))}, (413, "too_many_pixels")),
    ("captions", {"image": text(b"\xff\xd8" + bytes(200_001))}, (413, "picture_too_large")),
    ("captions", {"image": [IMAGE] * 21}, (413, "too_much_at_once")),
    ("captions", {"image": "http://127.0.0.1/a.png"}, (400, "addresses_refused")),
    ("captions", {"image": "https://example.com/a.png"}, (400, "addresses_refused")),
    ("match", {"image": IMAGE, "text": " "}, (422, "invalid_request")),
    ("match", {"image": IMAGE, "text": ["a"] * 65}, (422, "invalid_request")),
    ("embeddings", {}, (422, "invalid_request")),
    ("chat/completions", {"messages": []}, (422, "invalid_request")),
    ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]},
     (400, "one_picture_needed")),
    ("nothing", {}, (404, "not_found")),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "refusal"), REFUSED)
def test_what_is_refused(ask, path, body, refusal):
    assert code(ask("POST", f"/v1/{path}", json=body)) == refusal


def test_bodies_that_are_none(ask):
    url = "/v1/captions"
    json_type = {"content-type": "application/json"}
    assert code(ask("POST", url, content=b"{", headers=json_type)) == (422, "invalid_request")
    deep = b"[" * 100_000
    assert code(ask("POST", url, content=deep, headers=json_type)) == (422, "invalid_request")
    assert code(ask("POST", url, content=b"a=1"))[0] == 415
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert code(ask("POST", url, content=b"nothing", headers=form))[0] in (400, 422)
    assert code(ask("GET", url))[0] == 405
    large = ask("POST", url, content=bytes(serving.LIMITS.body + 1))
    assert code(large) == (413, "body_too_large")

    async def parts():
        for _ in range(20):
            yield bytes(100_000)

    assert code(ask("POST", url, content=parts())) == (413, "body_too_large")


def test_random_bytes_and_broken_pictures_are_refused_and_nothing_fails(ask):
    whole = picture()
    for seed in range(60):
        where = seed * len(whole) // 60
        broken = whole[:where] + serving.noise(8, seed) + whole[where + 8 :]
        headers = {"content-type": "image/png"}
        for content in (broken, serving.noise(50, seed), whole[:where]):
            answer = ask("POST", "/v1/captions?method=greedy", content=content, headers=headers)
            assert answer.status_code in (200, 413, 415, 422), answer.text
            assert answer.status_code == 200 or code(answer)


def test_the_state_of_the_service(ask):
    assert ask("GET", "/healthz").json() == {"status": "alive"}
    assert ask("GET", "/readyz").json() == {"status": "ready"}
    cards = ask("GET", "/v1/models").json()["data"]
    assert [(card["id"], card["task"]) for card in cards] == [("tiny", "pretrain"), ("asks", "vqa")]
    ask("POST", "/v1/captions", json={"image": IMAGE})
    told = ask("GET", "/metrics").text
    assert 'blip_jax_requests_total{route="/v1/captions",status="200"}' in told
    assert 'blip_jax_batch_rows_count{program="tiny/caption/beam"}' in told
    assert "blip_jax_rows 0.0" in told


def test_pages_hold_to_a_policy_and_need_nothing_from_outside(ask):
    for path in ("/", "/docs", "/page/style.css", "/page/main.js", "/page/view.js"):
        answer = ask("GET", path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.findall(r"(?:https?:|[\"'(])//", answer.text)
    assert ask("GET", "/page/../app.py").status_code == 404
    assert ask("GET", "/page/%2e%2e/app.py").status_code == 404


def test_the_document_names_every_route_and_its_bodies(ask):
    document = ask("GET", "/openapi.json").json()
    captions = document["paths"]["/v1/captions"]["post"]
    assert {"application/json", "multipart/form-data", "image/jpeg"} <= set(
        captions["requestBody"]["content"]
    )
    assert {"413", "429", "503"} <= set(captions["responses"])
    assert len(document["paths"]) == 12
    assert "#/$defs" not in json.dumps(document)


def test_who_may_ask():
    with serving.client(token="a long enough token") as ask:
        url, body = "/v1/match", {"json": {"image": IMAGE, "text": "a"}}
        assert code(ask("POST", url, **body)) == (401, "unauthorized")
        for wrong in ("a long enough", "Bearer", "Bearer a long enough tokem", "Basic YQ=="):
            answer = ask("POST", url, headers={"authorization": wrong}, **body)
            assert code(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        right = {"authorization": "Bearer a long enough token"}
        assert ask("POST", url, headers=right, **body).status_code == 200
        for path in ("/", "/docs", "/healthz", "/readyz", "/openapi.json", "/page/main.js"):
            assert ask("GET", path).status_code == 200
        for path in ("/metrics", "/v1/models", "/nothing"):
            assert code(ask("GET", path)) == (401, "unauthorized")


def test_other_sites_and_other_names_are_refused():
    with serving.client(hosts=("localhost",)) as ask:
        for host in ("evil.example", "[broken", "localhost.evil.example", ""):
            found = ask("GET", "/v1/models", headers={"host": host})
            assert code(found) == (403, "host_refused")
        assert ask("GET", "/v1/models", headers={"host": "localhost:80"}).status_code == 200
        for origin in ("http://evil.example", "null", "http://localhost.evil.example"):
            found = ask("POST", "/v1/match", headers={"origin": origin})
            assert code(found) == (403, "origin_refused")
        assert ask("GET", "/", headers={"origin": "http://localhost"}).status_code == 200


def test_a_deadline_ends_a_request():
    with serving.client(request=0.0) as ask:
        assert code(ask("POST", "/v1/captions", json={"image": IMAGE})) == (
            504,
            "deadline_exceeded",
        )


def test_logs_hold_nothing_of_what_was_asked(ask, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "zebra crossing"
    ask("POST", "/v1/match", json={"image": IMAGE, "text": secret})
    ask("POST", f"/v1/captions?prompt={secret}", json={"image": IMAGE, "prompt": secret * 20})
    ask("POST", f"/v1/{secret}", json={})
    ask("POST", "/v1/captions", json={"image": IMAGE, "method": secret})
    own = [record.getMessage() for record in caplog.records if record.name == "blip_jax.serve"]
    assert len(own) == 4 and not any("zebra" in line or IMAGE[:20] in line for line in own)
