"""The engine, the cache and the programs of a service, without HTTP."""

import asyncio
import dataclasses
import hashlib
import io
import threading
import time

import numpy as np
import pytest
import tiny
from PIL import Image

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from blip_jax.serve.engine import Engine
from blip_jax.serve.features import FeatureCache
from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics
from blip_jax.serve.programs import Features, Program, build_programs
from blip_jax.serve.refusal import Refusal
from blip_jax.serve.service import Service

LIMITS = Limits(max_batch=4, max_wait=0.05, rows=20, decoders=1)


def served(scenario, *programs, limits=LIMITS):
    """Runs a coroutine function of an engine that is ready for programs."""

    async def whole():
        engine = Engine(limits, Metrics())
        engine.start(programs)
        try:
            while not engine.ready and engine.failure is None:
                await asyncio.sleep(0.001)
            return await scenario(engine)
        finally:
            engine.stop()

    return asyncio.run(whole())


def recorded(most=4, work=lambda row: row * 10):
    """A program that notes its batches."""
    batches = []

    def run(rows):
        batches.append(list(rows))
        return [work(row) for row in rows]

    return Program("test/program", run, 0, most), batches


def test_rows_that_wait_together_run_together_and_keep_their_order():
    program, batches = recorded()

    async def scenario(engine):
        batches.clear()
        return await asyncio.gather(*(engine.run(program, [i, i + 100]) for i in range(5)))

    found = served(scenario, program)
    assert found == [[10 * i, 10 * (i + 100)] for i in range(5)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len({row for batch in batches for row in batch}) == 10


def test_a_batch_that_is_not_full_starts_in_time_and_is_filled_up():
    program, batches = recorded()

    async def scenario(engine):
        batches.clear()
        start = time.monotonic()
        found = await engine.run(program, [1, 2, 3])
        return found, time.monotonic() - start

    found, seconds = served(scenario, program)
    assert found == [10, 20, 30] and batches == [[1, 2, 3, 3]]
    assert LIMITS.max_wait <= seconds < LIMITS.max_wait + 1


def test_every_size_is_compiled_before_it_is_ready():
    program, batches = recorded(most=6)

    async def scenario(engine):
        return [len(batch) for batch in batches]

    assert served(scenario, program) == [1, 2, 4, 6]


def test_rows_that_nobody_waits_for_are_left_out():
    started, go = threading.Event(), threading.Event()
    slow, _ = recorded(work=lambda row: (started.set(), go.wait(5)) if row else None)
    program, batches = recorded()

    async def scenario(engine):
        batches.clear()
        held = asyncio.ensure_future(engine.run(slow, [1]))
        await asyncio.to_thread(started.wait, 5)
        gone = asyncio.ensure_future(engine.run(program, [7]))
        stays = asyncio.ensure_future(engine.run(program, [8]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        go.set()
        await held
        return await stays

    assert served(scenario, slow, program) == [80]
    assert batches == [[8]]


def test_batches_pay_where_a_run_costs_what_it_costs_whatever_its_rows():
    program, _ = recorded(most=8)
    slow = dataclasses.replace(program, run=lambda rows: time.sleep(0.02) or program.run(rows))

    async def scenario(engine):
        async def client(count):
            for _ in range(count):
                await engine.run(slow, [1])

        def rate(start):
            return 24 / (time.monotonic() - start)

        start = time.monotonic()
        await client(24)
        one = rate(start)
        start = time.monotonic()
        await asyncio.gather(*(client(3) for _ in range(8)))
        return one, rate(start)

    one, many = served(scenario, slow, limits=dataclasses.replace(LIMITS, max_wait=0.004))
    assert many > 3 * one


def test_a_failing_batch_fails_alone():
    program, _ = recorded(work=lambda row: 1 // (row - 3))

    async def scenario(engine):
        with pytest.raises(ZeroDivisionError):
            await engine.run(program, [3])
        return await engine.run(program, [4])

    assert served(scenario, program) == [1]


def test_what_waits_is_done_before_the_end():
    program, _ = recorded(work=lambda row: time.sleep(0.02) or row)

    async def scenario(engine):
        tasks = [asyncio.ensure_future(engine.run(program, [i])) for i in range(9)]
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.stop)
        return await asyncio.gather(*tasks)

    assert served(scenario, program) == [[i] for i in range(9)]


def test_room_is_limited_and_comes_back():
    program, _ = recorded()

    async def scenario(engine):
        with pytest.raises(Refusal) as never, engine.admit(LIMITS.rows + 1):
            pass
        with engine.admit(15):
            with engine.admit(5):
                pass
            with pytest.raises(Refusal) as now, engine.admit(6):
                pass
        with engine.admit(LIMITS.rows):
            return never.value, now.value

    never, now = served(scenario, program)
    assert (never.status, now.status) == (413, 429)
    assert int(now.headers["retry-after"]) >= 1


def test_a_program_that_cannot_be_compiled_is_never_ready():
    program, _ = recorded(work=lambda row: 1 // row)

    async def scenario(engine):
        with pytest.raises(Refusal) as refusal, engine.admit(1):
            pass
        return engine.ready, engine.failure, refusal.value.status

    ready, failure, status = served(scenario, program)
    assert not ready and isinstance(failure, ZeroDivisionError) and status == 503


def features(size):
    return Features(np.zeros(size, np.uint8), None)


def test_the_cache_holds_what_was_used_last_within_its_bytes():
    computed = []

    async def scenario():
        cache = FeatureCache(100, Metrics())

        async def get(name, size=40):
            async def compute():
                computed.append(name)
                return features(size)

            return await cache.get(("m", name), compute)

        for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
            await get(name)
            assert cache.size <= 100
        await get(b"too large", 101)
        assert cache.size == 80
        return computed

    assert asyncio.run(scenario()) == [b"a", b"b", b"c", b"b", b"too large"]


def test_what_several_want_at_once_is_computed_once_though_the_first_gives_up():
    computed = []

    async def scenario():
        cache = FeatureCache(100, Metrics())

        async def compute():
            computed.append(1)
            await asyncio.sleep(0.02)
            return features(10)

        first, second = (asyncio.ensure_future(cache.get(("m", b"a"), compute)) for _ in range(2))
        await asyncio.sleep(0.005)
        first.cancel()
        return (await second).nbytes

    assert asyncio.run(scenario()) == 10 and computed == [1]


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def ask(model, scenario, max_batch=1):
    """A coroutine function of a ready service and its one model."""

    async def whole():
        service = Service({"m": model}, dataclasses.replace(LIMITS, max_batch=max_batch))
        service.start()
        try:
            while not service.engine.ready:
                assert service.engine.failure is None
                await asyncio.sleep(0.01)
            return await scenario(service, service.models["m"])
        finally:
            service.stop()

    return asyncio.run(whole())


def test_the_service_says_what_the_model_says():
    model = tiny.model()
    arrays = tiny.images(3)
    texts = ["a red star", "two dogs"]

    async def scenario(service, one):
        pictures = [png(array) for array in arrays]
        written = await asyncio.gather(
            service.captions(one, pictures, "beam"),
            service.captions(one, pictures, "greedy", "a red"),
            service.captions(one, pictures[:1], "nucleus", None, 5),
        )
        matched = await service.matches(one, pictures, texts)
        vectors = await service.embeddings(one, pictures, texts)
        words = await service.explanation(one, pictures[0], "a red star")
        assert service.cache.size == sum(f.nbytes for f in service.cache._held.values())
        assert len(service.cache._held) == 3
        return written, matched, vectors, words

    written, matched, (images, embedded), words = ask(model, scenario)
    options = {"num_captions": 3}
    beam = model.caption(arrays, method="beam", **options)
    assert [[c.text for c in row] for row in written[0]] == [[c.text for c in row] for row in beam]
    greedy = model.caption(arrays, method="greedy", prompt="a red")
    assert [row[0].text for row in written[1]] == [row[0].text for row in greedy]
    nucleus = model.caption(arrays[:1], method="nucleus", seeds=[5], **options)
    assert [c.text for c in written[2][0]] == [c.text for c in nucleus[0]]
    matrix = model.match_matrix(arrays, texts)
    np.testing.assert_allclose([[c.itm for c in row] for row in matched], matrix.itm, atol=1e-5)
    np.testing.assert_allclose([[c.itc for c in row] for row in matched], matrix.itc, atol=1e-5)
    np.testing.assert_allclose(images, model.embed_images(arrays), atol=1e-5)
    np.testing.assert_allclose(embedded, model.embed_texts(texts), atol=1e-5)
    assert [word for word, _ in words] == ["a", "red", "star"]
    for word, heatmap in words:
        expected = model.explain(arrays[0], "a red star", word).heatmap
        np.testing.assert_allclose(heatmap, expected, atol=1e-6)


def test_questions_are_answered_as_if_each_were_alone():
    model = tiny.model("vqa", question_mask=False)
    (array,) = tiny.images(1)
    questions = ["is it red?", "is it green or is it blue, and how many dogs are on the left?"]

    async def scenario(service, one):
        return await asyncio.gather(*(service.answers(one, [png(array)], q) for q in questions))

    for question, found in zip(questions, ask(model, scenario, max_batch=2), strict=True):
        (expected,) = model.answer([array], question, top_n=3)
        assert [a.text for a in found[0]] == [a.text for a in expected]
        probabilities = [a.probability for a in expected]
        np.testing.assert_allclose([a.probability for a in found[0]], probabilities, rtol=1e-4)


def test_a_model_that_judges_pairs_is_refused():
    model = tiny.model()
    config = dataclasses.replace(model.config, task="nlvr")
    with pytest.raises(ValueError, match="nlvr"):
        build_programs("m", dataclasses.replace(model, config=config), 1)


def test_the_cache_knows_pictures_by_their_content():
    (array,) = tiny.images(1)
    content = png(array)

    async def scenario(service, one):
        for _ in range(2):
            await service.matches(one, [content], ["a"])
        return list(service.cache._held)

    assert ask(tiny.model(), scenario) == [("m", hashlib.sha256(content).digest())]
