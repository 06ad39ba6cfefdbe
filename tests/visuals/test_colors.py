from __future__ import annotations

import colorsys
import itertools

import numpy as np

from panoptic_occ.visuals.colors import family, instance_color, muted, oklab, srgb

COLORS = list(itertools.product((0, 64, 128, 192, 255), repeat=3))


def test_oklab_gives_the_published_values_of_the_primaries():
    lab = oklab(np.array([(1.0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]))
    published = [(1.0, 0, 0), (0.62796, 0.22486, 0.12585), (0.86644, -0.23389, 0.17950), (0.45201, -0.03246, -0.31153)]
    np.testing.assert_allclose(lab, published, atol=1e-4)


def test_srgb_inverts_oklab():
    rgb = np.random.default_rng(0).random((100, 3))
    np.testing.assert_allclose(srgb(oklab(rgb)), rgb, atol=1e-9)


def test_instances_of_a_class_are_far_apart_and_keep_its_hue_whatever_its_colour():
    """0.02 is about the smallest difference in OKLab that an eye notices on large patches."""
    for color in COLORS:
        lab = oklab(np.array([instance_color(color, k) for k in range(20)]) / 255)
        distance = np.linalg.norm(lab[:8, None] - lab[None, :8], axis=2) + np.eye(8)
        assert distance[:4, :4].min() > 5 * 0.02 and distance.min() > 3.5 * 0.02, color
        a, b = oklab(np.array([color]) / 255)[0, 1:]
        turn = np.angle((lab[:, 1] + 1j * lab[:, 2]) / complex(a, b), deg=True)
        # 22 by design, the rest is rounding; grey has none
        assert np.hypot(a, b) < 0.02 or np.abs(turn).max() < 24, color


def test_the_first_instance_has_the_colour_of_the_class_and_large_numbers_repeat_the_family():
    shades = family((220, 20, 60))
    assert shades[0] == (220, 20, 60)
    assert len(set(shades)) == len(shades) > 30
    assert instance_color((220, 20, 60), 3 * len(shades) + 5) == shades[5]


def test_a_muted_colour_is_greyer_and_keeps_its_lightness():
    saturation = [colorsys.rgb_to_hsv(*color)[1] for color in ((200, 40, 60), muted((200, 40, 60)))]
    assert saturation[1] < 0.75 * saturation[0]
    before, after = oklab(np.array([(200, 40, 60), muted((200, 40, 60))]) / 255)
    assert abs(before[0] - after[0]) < 0.01
