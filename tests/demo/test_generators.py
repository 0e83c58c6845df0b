from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import soundfile

from phicorpus.demo import charts, decks, pages, recordings, scenes, synthesise, words


def rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


@pytest.mark.parametrize("kind", pages.PAGE_KINDS)
def test_every_word_of_a_page_is_placed_in_reading_order_and_inside_it(kind: str) -> None:
    for number in range(10):
        chance = rng(number)
        page = pages.sample_page(chance, kind)
        rendered = pages.render_page(chance, page, pages.PAGE_SIZES[0])

        drawn = [word for placed in rendered.texts for word in placed.text.split()]
        assert drawn == [word for word in page.to_text().split() if word not in {"-", "|"}]
        for placed in rendered.texts:
            assert placed.left >= 0
            assert placed.right <= rendered.image.width
            assert placed.bottom <= rendered.image.height
            assert len(placed.edges) == len(placed.text) + 1
            assert list(placed.edges) == sorted(placed.edges)


def test_a_page_that_cannot_fit_is_refused() -> None:
    page = pages.sample_page(rng(), "letter")

    with pytest.raises(ValueError, match="does not fit"):
        pages.render_page(rng(), page, (448, 100))


@pytest.mark.parametrize("kind", charts.CHART_KINDS)
def test_a_chart_shows_all_its_values_and_labels(kind: charts.ChartKind) -> None:
    for number in range(20):
        chart = charts.sample_chart(rng(number), kind)
        rendered = charts.render_chart(chart)

        drawn = [placed.text.rstrip("%") for placed in rendered.texts]
        assert chart.title in drawn
        assert set(chart.categories) <= set(drawn)
        for _, values in chart.series:
            assert len(values) == len(chart.categories)
            assert {str(value) for value in values} <= set(drawn)
        for placed in rendered.texts:
            assert placed.left >= 0
            assert placed.right <= rendered.image.width
            assert placed.bottom <= rendered.image.height


def test_category_labels_do_not_overlap_at_the_smallest_size() -> None:
    for number in range(60):
        chart = charts.sample_chart(rng(number), "bar")
        rendered = charts.render_chart(chart, (672, 448))

        labels = [placed for placed in rendered.texts if placed.text in chart.categories]
        for left, right in itertools.pairwise(labels):
            assert left.right < right.left, chart.categories


def test_a_caption_names_the_things_and_their_place() -> None:
    captions = {scenes.sample_scene(rng(number)).caption() for number in range(50)}

    assert len(captions) > 40
    for caption in captions:
        assert caption.endswith(tuple(f" on {place}." for place in scenes.PLACES))
        assert sum(shape in caption for shape in scenes.SHAPES) in {1, 2}


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_shape_is_drawn_in_its_colour_at_its_side(shape: str) -> None:
    left, right = (
        scenes.Thing(shape=shape, colour="red"),
        scenes.Thing(shape="square", colour="blue"),
    )
    scene = scenes.Scene(place="snow", things=(left, right), relation="left of")

    image = np.asarray(scenes.draw_scene(rng(), scene).image).astype(int)

    red = np.abs(image - scenes.COLOURS["red"]).sum(axis=2) < 30
    blue = np.abs(image - scenes.COLOURS["blue"]).sum(axis=2) < 30
    assert red.sum() > 2000
    assert np.nonzero(red)[1].max() < np.nonzero(blue)[1].min()


def test_a_slide_has_the_same_words_as_picture_and_as_pptx_truth() -> None:
    deck = decks.sample_deck(rng(1), num_slides=6)

    for slide in deck.slides:
        rendered = decks.render_slide(slide, deck.accent)
        drawn = " ".join(placed.text for placed in rendered.texts)
        assert drawn.startswith(slide.page.title)
        assert all(item in drawn for item in slide.page.items)


def test_clips_are_short_and_their_texts_are_in_the_vocabulary() -> None:
    clips = recordings.load_clips()
    known = {
        word.strip(".,").lower()
        for number in range(3000)
        for word in words.sentence(rng(number)).split()
    }

    assert 20 <= len(clips) <= 30
    assert len({clip.text for clip in clips}) == len(clips)
    assert len({clip.voice for clip in clips}) >= 5
    for clip in clips:
        assert 1 < len(clip.samples) / recordings.CLIP_RATE_HZ < 6
        assert clip.samples.dtype == np.float32
        assert {word.strip(".,").lower() for word in clip.text.split()} <= known


def test_clips_take_less_than_a_megabyte_and_a_half() -> None:
    folder = recordings.SPEECH_FOLDER

    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.5e6


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg"])
def test_a_recording_keeps_its_length_in_every_format(
    audio_format: recordings.AudioFormat, tmp_path_factory: pytest.TempPathFactory
) -> None:
    style = recordings.RecordingStyle(num_sentences=3, rate_hz=22_050, channels=2)
    recording = recordings.compose(rng(), recordings.load_clips(), style)

    path = tmp_path_factory.mktemp("audio") / f"a.{audio_format}"
    path.write_bytes(recordings.encode(recording, audio_format))

    read, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == 22_050
    assert read.shape == recording.samples.shape
    assert float(np.corrcoef(read[:, 0], recording.samples[:, 0])[0, 1]) > 0.95


def test_a_recording_repeats_a_clip_only_after_all_were_used() -> None:
    clips = recordings.load_clips()[:3]
    style = recordings.RecordingStyle(num_sentences=6)

    texts = [sentence.text for sentence in recordings.compose(rng(), clips, style).sentences]

    assert sorted(texts[:3]) == sorted(texts[3:]) == sorted(clip.text for clip in clips)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_training_clip_is_speech_that_is_not_held_out() -> None:
    held_out = frozenset({synthesise.sample_clip(rng()).text})

    clip = synthesise.sample_clip(rng(), held_out)

    assert clip.text not in held_out
    assert clip.samples.dtype == np.float32
    assert 1 < len(clip.samples) / recordings.CLIP_RATE_HZ < 8
    assert float(np.abs(clip.samples).max()) > 0.05
