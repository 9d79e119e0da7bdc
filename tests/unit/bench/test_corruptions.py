# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Spoilt images, against closed forms, other people's colour conversion and what has to hold for all of them."""

from __future__ import annotations

import colorsys
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from yolo_compress.bench.corruptions import AIRLIGHT, CORRUPTIONS, SEVERITIES, corrupt, disk, line
from yolo_compress.errors import UsageError
from yolo_compress.recipe import CORRUPTION_NAMES

NAMES = list(CORRUPTIONS)


def flat(value, side=240):
    return np.full((side, side, 3), value, np.uint8)


def picture(seed=0, height=120, width=160):
    """Return a smooth image with edges and a texture, as photographs are."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.uniform(30, 200, (6, 8, 3)).astype(np.float32), (width, height))
    image[height // 4 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, 3)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def psnr(image, other):
    error = np.square(image.astype(float) - other).mean()
    return 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", NAMES)
def test_each_severity_is_farther_from_the_image_than_the_one_before(name):
    for seed in range(2):
        image = picture(seed, 320, 480)  # of 160 pixels, the weakest blur would be less than one
        quality = [psnr(image, corrupt(image, name, severity)) for severity in SEVERITIES]
        assert all(after < before for before, after in pairwise(quality)), quality
        assert 5 < quality[-1] < quality[0] < 45


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_a_severity_always_give_the_same(name):
    image = picture()
    before = image.copy()
    first = corrupt(image, name, 3)
    np.testing.assert_array_equal(first, corrupt(image.copy(), name, 3))
    np.testing.assert_array_equal(image, before)  # what was given stays
    assert (first.shape, first.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "motion_blur", "haze"])
def test_what_is_random_differs_between_images(name):
    image = picture()
    other = image.copy()
    other[0, 0] ^= 1
    difference = corrupt(image, name, 3).astype(int) - corrupt(other, name, 3)
    assert (difference != 0).mean() > 0.2


@given(st.sampled_from(NAMES), st.sampled_from(SEVERITIES), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_size_of_image_is_taken(name, severity, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert corrupt(image, name, severity).shape == image.shape


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_deviation_and_the_shape_that_it_says(severity):
    deviation = CORRUPTIONS["gaussian_noise"].values[severity - 1] * 255
    noise = corrupt(flat(128), "gaussian_noise", severity).astype(float).ravel()
    clipped = stats.norm(128, deviation).expect(lambda x: np.clip(x, 0, 255))
    assert noise.mean() == pytest.approx(clipped, abs=0.5)
    inside = noise[(noise > 0) & (noise < 255)]
    shares = [(inside <= 128 + step * deviation).mean() for step in (-1, -0.5, 0, 0.5, 1)]
    truncated = stats.truncnorm(-127.5 / deviation, 126.5 / deviation, 128, deviation)
    expected = [truncated.cdf(np.floor(128 + step * deviation) + 0.5) for step in (-1, -0.5, 0, 0.5, 1)]
    np.testing.assert_allclose(shares, expected, atol=0.006)


def test_gaussian_noise_is_white():
    noise = corrupt(flat(128), "gaussian_noise", 2).astype(float)[..., 0] - 128
    beside = (noise[:, 1:] * noise[:, :-1]).mean() / noise.var()
    assert abs(beside) < 0.02


@pytest.mark.parametrize("severity", SEVERITIES[:4])
@pytest.mark.parametrize("value", [20, 60])
def test_shot_noise_has_the_mean_and_variance_of_poisson(severity, value):
    photons = CORRUPTIONS["shot_noise"].values[severity - 1]
    noise = corrupt(flat(value), "shot_noise", severity).astype(float)
    assert noise.mean() == pytest.approx(value, rel=0.02)
    assert noise.var() == pytest.approx(value * 255 / photons + 1 / 12, rel=0.04)  # a twelfth is of rounding
    levels = np.unique(noise)
    assert np.abs(levels * photons / 255 - np.rint(levels * photons / 255)).max() <= 0.5 * photons / 255 + 1e-9


def test_black_stays_black_where_light_is_what_makes_noise():
    assert corrupt(flat(0), "shot_noise", 5).max() == 0


@pytest.mark.parametrize("radius", [0.2, 1.5, 4, 8.3])
def test_a_disk_keeps_light_and_place_and_has_the_second_moment_of_a_disk(radius):
    kernel = disk(radius).astype(float)
    assert kernel.shape[0] % 2 == 1
    assert kernel.sum() == pytest.approx(1)
    across = np.arange(len(kernel)) - len(kernel) // 2
    assert (kernel.sum(axis=0) * across).sum() == pytest.approx(0, abs=1e-6)
    if radius >= 4:  # E[x^2 + y^2] of a disk is r^2 / 2
        moment = (kernel * (across[:, None] ** 2 + across**2)).sum()
        assert moment == pytest.approx(radius**2 / 2, rel=0.05)
    np.testing.assert_allclose(kernel, kernel.T)


@pytest.mark.parametrize("angle", [0, 0.3, np.pi / 2, 2.5])
@pytest.mark.parametrize("length", [0.5, 5, 14.5, 28])
def test_a_line_keeps_light_and_place_and_lies_along_its_angle(length, angle):
    kernel = line(length, angle).astype(float)
    assert kernel.sum() == pytest.approx(1)
    across = np.arange(len(kernel)) - len(kernel) // 2
    assert (kernel.sum(axis=0) * across).sum() == pytest.approx(0, abs=1e-6)
    assert (kernel.sum(axis=1) * across).sum() == pytest.approx(0, abs=1e-6)
    if length >= 14:
        along = across * np.cos(angle) + across[:, None] * np.sin(angle)
        beside = across[:, None] * np.cos(angle) - across * np.sin(angle)
        assert (kernel * along**2).sum() == pytest.approx((length - 1) ** 2 / 12, rel=0.1)
        assert (kernel * beside**2).sum() < 0.5


def test_a_flat_line_is_a_box():
    np.testing.assert_allclose(line(5, 0)[3], [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1][:7], atol=0.11)
    assert (line(5, 0)[[0, 1, 2, 4, 5, 6]] == 0).all()


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur"])
def test_blur_leaves_flat_images_and_the_light_of_others(name):
    np.testing.assert_array_equal(corrupt(flat(77), name, 5), flat(77))
    image = np.full((160, 160, 3), 40, np.uint8)
    image[60:100, 60:100] = 200
    assert corrupt(image, name, 4).mean() == pytest.approx(image.mean(), rel=0.005)


def test_blur_grows_with_the_image():
    image = np.zeros((320, 320, 3), np.uint8)
    image[160:] = 200
    twice = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)

    def width(given):
        column = given[:, given.shape[1] // 2, 0]
        return ((column > 0) & (column < 200)).sum()

    assert width(corrupt(twice, "defocus_blur", 5)) == pytest.approx(
        2 * width(corrupt(image, "defocus_blur", 5)), abs=2
    )


def test_brightness_raises_the_value_of_hsv_alone():
    image = picture(height=6, width=8)
    added = CORRUPTIONS["brightness"].values[1]
    expected = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        expected[place] = np.rint(np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))) * 255)
    assert np.abs(corrupt(image, "brightness", 2).astype(int) - expected).max() <= 1
    assert (corrupt(flat(0), "brightness", 2) == round(added * 255)).all()
    assert (corrupt(flat(255), "brightness", 5) == 255).all()


def test_contrast_shrinks_deviations_from_the_mean_of_each_channel():
    image = picture()
    share = CORRUPTIONS["contrast"].values[2]
    spoilt = corrupt(image, "contrast", 3).astype(float)
    np.testing.assert_allclose(spoilt.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.1)
    np.testing.assert_allclose(spoilt.std(axis=(0, 1)), share * image.std(axis=(0, 1)), rtol=0.01)


def test_jpeg_is_what_a_file_of_that_quality_holds(tmp_path):
    image = picture()
    cv2.imwrite(str(tmp_path / "a.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, int(CORRUPTIONS["jpeg"].values[2])])
    np.testing.assert_array_equal(corrupt(image, "jpeg", 3), cv2.imread(str(tmp_path / "a.jpg")))


def test_haze_lies_between_the_image_and_the_airlight_by_its_thickness():
    density, light = CORRUPTIONS["haze"].values[3], AIRLIGHT * 255
    black, white = (corrupt(flat(value), "haze", 4).astype(float) for value in (0, 255))
    through = 1 - black / light
    assert through.min() == pytest.approx(np.exp(-1.5 * density), abs=0.01)
    assert through.max() == pytest.approx(np.exp(-0.5 * density), abs=0.01)
    assert white.min() >= light - 1
    steps = np.abs(np.diff(black[..., 0], axis=0)).max()
    assert steps < 8  # smooth: no edge that a detector could take for one


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((picture(), "fogg", 1), "corruptions=fogg is not known; choose from gaussian_noise"),
        ((picture(), "hazy", 1), "did you mean haze"),
        ((picture(), "haze", 6), "severity 6 does not exist; give 1 to 5"),
        ((picture()[..., 0], "haze", 1), r"shape \(120, 160\) and uint8 cannot be corrupted; give \(H, W, 3\) uint8"),
        ((picture().astype(np.float32), "haze", 1), "float32 cannot be corrupted"),
    ],
)
def test_what_cannot_be_corrupted_is_told(given, message):
    with pytest.raises(UsageError, match=message):
        corrupt(*given)


def test_the_names_of_a_recipe_are_those_registered():
    assert set(CORRUPTION_NAMES) == set(CORRUPTIONS)
    for entry in CORRUPTIONS.values():
        assert len(entry.values) == len(SEVERITIES)
        steps = np.diff(entry.values)
        assert (steps > 0).all() or (steps < 0).all()
        assert entry.description.endswith(".")
