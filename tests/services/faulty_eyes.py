"""The server over a detector or an extractor that does what it is told: `python faulty_eyes.py detector|features FLAG=VALUE ...`."""

import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from editr2_jax.rewards.base import Detection, Features
from editr2_jax.services import grounding_dino, server_app, server_process

NORMAL, NOT_FINITE, TOO_FEW, DOUBLE, WIDE, SLOW = range(6)  # the first pixel of the first picture; slow: until there is a file GATE


class Detector:
    """Does what the phrases say; finds all others in the whole picture."""

    def __init__(self):
        self._one = threading.Lock()

    def detect(self, picture, phrases):
        assert self._one.acquire(blocking=False), "called twice at a time"
        try:
            return [self._found(picture, phrase) for phrase in phrases]
        finally:
            self._one.release()

    def _found(self, picture, phrase):
        word, _, number = phrase.partition(" ")
        if word == "sleep":
            time.sleep(float(number))
        if word == "ValueError":
            raise ValueError("this phrase is not for me.")
        if word == "RuntimeError":
            raise RuntimeError("/secret/place: out of memory")
        if word == "nan-score":
            grounding_dino.phrase_scores(np.array([[np.nan]]), [(0, 1)])
        if word == "nan-box":
            grounding_dino.corners(np.full(4, np.nan))
        box = (0.0, 0.0, 2.0 if word == "outside" else 1.0, 1.0)
        score = float("nan") if word == "nan" else picture[0, 0, 0] / 255
        return Detection(box=box, score=score, phrase="another" if word == "unasked" else phrase)


class Extractor:
    """A picture's features are its first pixel; `calls` is how many pictures each call had."""

    def embed(self, pictures):
        what = int(pictures[0][0, 0, 0])
        while what == SLOW and not Path(os.environ["GATE"]).exists():
            time.sleep(0.01)
        first = np.array([picture[0, 0] for picture in pictures], np.float32)
        cls = np.concatenate([first, np.full((len(first), 1), len(pictures), np.float32)], 1)  # [N, 4], the last: pictures of this call
        if what == NOT_FINITE:
            cls[0, 0] = np.inf
        if what == TOO_FEW:
            cls = cls[1:]
        if what == WIDE:
            cls = np.concatenate([cls, cls], 1)
        cls = cls.astype(np.float64 if what == DOUBLE else np.float32)
        return Features(cls=cls, patches=cls[:, None, None].repeat(2, 1))


if __name__ == "__main__":
    verb, *flags = sys.argv[1:]
    told = {name: type(getattr(server_app.Limits(), name))(value) for name, _, value in (flag.partition("=") for flag in flags)}
    limits = dataclasses.replace(server_app.Limits(), **told)
    settings = {"name": "faulty", "limits": limits}
    app = server_app.detector_app(Detector(), **settings) if verb == "detector" else server_app.features_app(Extractor(), **settings)
    bound = server_process.bind("127.0.0.1", 0, public=False, token="")
    server_process.run(app, bound, server_process.Patience(grace_s=10.0), say=lambda url: print(f"faulty at {url}", flush=True))
