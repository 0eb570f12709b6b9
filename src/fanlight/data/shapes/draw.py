"""Scenes as pixels, smooth at the edges: a pixel's share of a thing follows from its distance to the outline.

H = W = SIDE_PX; h, w of a thing's box; E edges of a polygon.
"""

from __future__ import annotations

import math

import numpy as np

from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.scene import SIDE_PX, Scene, Thing

RGB = {
    "red": (208, 38, 40), "yellow": (246, 222, 52), "green": (40, 148, 62), "blue": (44, 84, 206),
    "white": (247, 247, 247), "black": (12, 12, 12),
}  # fmt: skip
JITTER = 9  # at most, of a thing's red, green and blue, each way
TONES = (78, 178)  # greys of backgrounds: neither white nor black can be lost in them
TINT = 14  # at most, of a background's red, green and blue, each way
_AXIS = np.arange(SIDE_PX) + 0.5  # the middles of pixels
_REACH = 1.25  # half the side of a thing's box, in radii


def pixels(scene: Scene) -> np.ndarray:
    """uint8 [H, W, 3]."""
    dice = Dice(0, seed=scene.seed)
    image_HW3 = _background(scene.background, dice)
    for thing in scene.things:
        _add(image_HW3, thing, dice)
    return np.rint(image_HW3).astype(np.uint8)


def _background(kind: str, dice: Dice) -> np.ndarray:
    """float64 [H, W, 3]: one tone, or two that pass into each other, take turns in stripes, or are ground and dots."""
    tone = dice.number(*TONES)
    one_3 = np.array([tone + dice.number(-TINT, TINT) for _ in range(3)])
    step = dice.number(28, 44) * (1 if tone < sum(TONES) / 2 else -1)
    other_3 = one_3 + step
    angle = dice.number(0, 2 * math.pi)
    y_H1, x_W = _AXIS[:, None], _AXIS
    along_HW = x_W * math.cos(angle) + y_H1 * math.sin(angle)
    if kind == "shaded":
        share_HW = (along_HW - along_HW.min()) / np.ptp(along_HW)
    elif kind == "striped":
        period = dice.number(7, 12)
        share_HW = np.clip(0.5 + period / 6 * np.sin((along_HW / period + dice.number()) * 2 * math.pi), 0, 1)
    elif kind == "dotted":
        period, radius = dice.number(7, 10), dice.number(1.3, 1.8)
        across_HW = y_H1 * math.cos(angle) - x_W * math.sin(angle)
        u_HW, v_HW = (np.mod(each, period) - period / 2 for each in (along_HW, across_HW))
        share_HW = np.clip(radius + 0.5 - np.hypot(u_HW, v_HW), 0, 1)
    else:
        share_HW = np.zeros((SIDE_PX, SIDE_PX))
    return one_3 + share_HW[..., None] * (other_3 - one_3)


def _add(image_HW3: np.ndarray, thing: Thing, dice: Dice) -> None:
    """Lays a thing over the image."""
    reach = thing.radius * _REACH + 1
    top, left = (max(0, math.floor(centre - reach)) for centre in (thing.y, thing.x))
    bottom, right = (min(SIDE_PX, math.ceil(centre + reach)) for centre in (thing.y, thing.x))
    dx_w, dy_h1 = _AXIS[left:right] - thing.x, _AXIS[top:bottom, None] - thing.y
    cos, sin = math.cos(thing.turn), math.sin(thing.turn)
    distance_hw = _distance(thing.shape, dx_w * cos + dy_h1 * sin, dy_h1 * cos - dx_w * sin, thing.radius)
    colour_3 = np.array([min(max(part + dice.number(-JITTER, JITTER), 0), 255) for part in RGB[thing.colour]])
    share_hw1 = np.minimum(np.maximum(0.5 - distance_hw, 0), 1)[..., None]
    box = image_HW3[top:bottom, left:right]
    box += share_hw1 * (colour_3 - box)


_POLYGONS = {  # corners in radii, one after the other
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.2), (1.05, 0.6), (-1.05, 0.6)],
    "cross": [
        (-0.33, -1.05), (0.33, -1.05), (0.33, -0.33), (1.05, -0.33), (1.05, 0.33), (0.33, 0.33),
        (0.33, 1.05), (-0.33, 1.05), (-0.33, 0.33), (-1.05, 0.33), (-1.05, -0.33), (-0.33, -0.33),
    ],
}  # fmt: skip


def _distance(shape: str, x_hw: np.ndarray, y_hw: np.ndarray, radius: float) -> np.ndarray:
    """[h, w]: pixels to the outline, negative inside."""
    if shape == "circle":
        return np.hypot(x_hw, y_hw) - 0.95 * radius
    return to_polygon(x_hw, y_hw, np.array(_POLYGONS[shape]) * radius)


def to_polygon(x_hw: np.ndarray, y_hw: np.ndarray, corners_E2: np.ndarray) -> np.ndarray:
    """[h, w]: the distance of points to a polygon, negative inside: the nearest of its edges, and the parity of the edges that
    a ray to the right crosses (Quilez, "2D distance functions")."""
    edge_x_E, edge_y_E = (np.roll(corners_E2, -1, 0) - corners_E2).T
    x_hwE, y_hwE = x_hw[..., None] - corners_E2[:, 0], y_hw[..., None] - corners_E2[:, 1]
    share_hwE = (x_hwE * edge_x_E + y_hwE * edge_y_E) / (edge_x_E**2 + edge_y_E**2)
    share_hwE = np.minimum(np.maximum(share_hwE, 0), 1)
    square_hwE = (x_hwE - share_hwE * edge_x_E) ** 2 + (y_hwE - share_hwE * edge_y_E) ** 2
    is_below_hwE = y_hwE >= 0
    is_past_hwE = is_below_hwE != np.concatenate([is_below_hwE[..., 1:], is_below_hwE[..., :1]], -1)
    is_right_hwE = (edge_x_E * y_hwE < edge_y_E * x_hwE) == is_below_hwE
    is_inside_hw = np.logical_xor.reduce(is_past_hwE & is_right_hwE, axis=-1)
    nearest_hw = np.sqrt(square_hwE.min(-1))
    return np.where(is_inside_hw, -nearest_hw, nearest_hw)
