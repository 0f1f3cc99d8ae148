"""Pictures as people have them: a fixed list of formats, every mode of Pillow, in 8-bit RGB without silent damage."""

import io
import logging
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..files import FileError, parsing

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's others may start programs, as EPS does
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
REMEDY = "replace or remove it"
UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # of damaged files it would tell beside the sentence about them


@dataclass
class Seen:
    """What of a folder's pictures their owner is told, and what only all of them together show to be wrong."""

    transparent: int = 0
    several: int = 0  # with more than one frame or page
    scales: dict = field(default_factory=dict)  # {(numbers, white): [how many pictures, the largest number, a name]}

    def notes(self):
        """A sentence for each thing that was done; FileError where the numbers of pictures are not of one scale."""
        for (numbers, white), (_, largest, name) in self.scales.items():
            others = [(w, other) for (n, w), (*_, other) in self.scales.items() if n == numbers and w != white]
            if others:
                found = f"its {numbers} go up to {white}, those of {others[0][1]} up to {others[0][0]}"
                raise FileError(f"{name}: {found}; save all pictures on one scale, best as 8-bit PNG")
            if largest < white / 16:
                found = f"{largest:g} is the largest number in all pictures of {numbers}, which count up to {white}"
                raise FileError(f"{name}: {found}: they would be nearly black; save them as 8-bit PNG")
        notes = [
            f"{count} picture(s) of {numbers}: 0 is black and {white} white (the largest is {largest:g})"
            for (numbers, white), (count, largest, _) in self.scales.items()
        ]
        if self.transparent:
            notes.append(f"{self.transparent} picture(s) with transparent parts: laid on white")
        if self.several:
            notes.append(f"{self.several} picture(s) of several frames or pages: the first is used")
        return notes


def opened(data, name):
    """Decode a picture (bytes) of FORMATS -> a loaded Pillow image. FileError, also above Pillow's limit of pixels."""
    with parsing(name, "not a readable picture", REMEDY), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.load()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            found = f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
            raise FileError(f"{name}: {found}, the most that a picture may have; make it smaller") from None
        except UnidentifiedImageError:
            raise FileError(f"{name}: not a readable picture of {', '.join(FORMATS)}; {REMEDY}") from None
        return image


def recognised(path):
    """Whether the beginning of a file is that of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS):
                return True
        except UnidentifiedImageError:
            return False
        except Exception:  # a damaged picture, or too large a one, which `opened` refuses
            return True


def understood(image, name, seen):
    """A loaded picture of any mode, upright, in 8-bit RGB; transparent parts are laid on white. Counts into `seen`."""
    with parsing(name, "its EXIF data or frames are damaged", "save it anew"):
        seen.several += getattr(image, "is_animated", False)  # n_frames would read a million of them
        image.load()  # looking for a second may have dropped the first
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        image = greys(image, name, seen)
    return on_white(image, name, seen) if image.has_transparency_data else image.convert("RGB")


def on_white(image, name, seen):
    """A picture of any mode with alpha, or with a transparent colour, laid on white -> RGB."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits; Pillow keeps the upper eight of pixels
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    rgba = image.convert(UNMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    laid = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if all(low == high for low, high in laid.getextrema()):
        raise FileError(f"{name}: shows nothing when it is laid on white; save it without transparency, or remove it")
    seen.transparent += 1
    return laid


def greys(image, name, seen):
    """A picture of integers or floats in 8 bits: LA where one of its numbers stands for transparent, else L."""
    values, tags = np.asarray(image).astype(np.float64), getattr(image, "tag_v2", {})
    low, high, numbers, whites = values.min(), values.max(), "32-bit integers", (255, 65535)
    if image.mode == "F":
        numbers, whites = "floats", (1, 255)
    elif image.mode != "I" or image.format in ("PNG", "PPM"):  # those have 16 bits, whatever Pillow keeps them in
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        numbers, whites = f"{bits}-bit greys", (2**bits - 1,)
    white = next((white for white in whites if 0 <= low <= high <= white), None)
    if white is None:  # also where one is not a number
        ranges = " or ".join(f"0 to {white}" for white in whites)
        found = f"holds {numbers} from {low:g} to {high:g}; they must be from {ranges}"
        raise FileError(f"{name}: {found}; save it as an 8-bit PNG")
    if high > 0:
        count, largest, _ = seen.scales.get((numbers, white), (0, 0, name))
        seen.scales[numbers, white] = [count + 1, max(largest, high), name]
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = white - values
    scaled = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
    if "transparency" in image.info:
        scaled.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return scaled
