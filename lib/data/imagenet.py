"""Ten classes of ImageNet-1K at a time, from the user's own copy: the six subsets of trajectory matching, and Comp-DD's sixteen.

Source: reference sheets of trajectory matching, section 1, and of EDF, sections 2.1 and 8. A label is the position in the list. Pictures
are squashed to a square, not cropped. `music_hard` names one class twice, as released: its first label has no images; `music_hard_nine`
is the nine that it has.
"""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..files import FileError

LISTS = {  # index in the sorted list of all classes, and the WordNet id less its n
    "imagenette": "0:01440764 217:02102040 482:02979186 491:03000684 497:03028079 566:03394916 569:03417042 571:03425413 574:03445777 701:03888257",
    "imagewoof": "193:02096294 182:02093754 258:02111889 162:02088364 155:02086240 167:02089973 159:02087394 273:02115641 207:02099601 229:02105641",
    "imagemeow": "281:02123045 282:02123159 283:02123394 284:02123597 285:02124075 291:02129165 292:02129604 290:02128925 289:02128757 287:02127052",
    "imagesquawk": "84:01806143 130:02007558 88:01818515 144:02051845 145:02056570 22:01614925 96:01843383 9:01518878 100:01860187 89:01819313",
    "imagefruit": "953:07753275 954:07753592 949:07745940 950:07747607 951:07749582 957:07768694 952:07753113 945:07720875 943:07718472 948:07742313",
    "imageyellow": "309:02206856 986:12057211 954:07753592 951:07749582 987:12144580 779:04146614 599:03530642 291:02129165 72:01773157 11:01531178",
    "in1k_cifar10": "404:02690373 136:02017213 130:02007558 283:02123394 354:02437312 252:02110627 31:01644373 339:02389026 628:03673027 864:04461696",
    "birds_easy": "130:02007558 140:02027492 83:01798484 142:02033041 134:02012849 139:02025239 88:01818515 90:01820546 144:02051845 21:01608432",
    "birds_hard": "14:01537544 19:01592084 91:01824575 15:01558993 13:01534433 95:01843065 10:01530575 16:01560419 20:01601694 12:01532829",
    "cars_easy": "581:03459775 535:03208938 717:03930630 817:04285008 511:03100240 436:02814533 656:03770679 757:04065272 661:03777568 751:04037443",
    "cars_hard": "802:04252077 660:03776460 829:04335435 627:03670208 609:03594945 575:03445924 573:03444034 867:04467665 734:03977966 408:02704792",
    "dogs_easy": "193:02096294 180:02093428 227:02105412 167:02089973 246:02109047 248:02109961 224:02105056 177:02092002 269:02114367 252:02110627",
    "dogs_hard": "239:02107683 238:02107574 247:02109525 195:02096585 151:02085620 266:02113712 157:02086910 181:02093647 154:02086079 217:02102040",
    "fish_easy": "5:01496331 1:01443537 6:01498041 397:02655020 390:02526121 3:01491361 392:02606052 393:02607072 148:02071294 147:02066245",
    "fish_hard": "0:01440764 391:02536864 389:02514041 395:02641379 4:01494475 396:02643566 2:01484850 394:02640242 50:01698640 103:01873310",
    "snake_easy": "64:01749939 57:01735189 55:01729977 56:01734418 61:01742172 62:01744401 68:01756291 67:01755581 54:01729322 60:01740131",
    "snake_hard": "46:01693334 42:01687978 41:01685808 40:01682714 43:01688243 58:01737021 65:01751748 59:01739381 53:01728920 52:01728572",
    "insect_easy": "323:02279972 314:02233338 310:02219486 309:02206856 306:02174001 308:02190166 302:02167151 313:02231487 303:02168699 315:02236044",
    "insect_hard": "301:02165456 326:02281787 324:02280649 305:02172182 325:02281406 300:02165105 318:02264363 320:02268853 70:01770081 322:02277742",
    "round_easy": "417:02782093 560:03379051 953:07753275 826:04328186 426:02794156 981:09835506 430:02802426 890:04540053 746:04019541 768:04118538",
    "round_hard": "852:04409515 805:04254680 736:03982430 892:04548280 429:02799071 574:03445777 722:03942813 522:03134739 752:04039381 971:09229709",
    "music_easy": "542:03250847 687:03854065 494:03017168 566:03394916 642:03721384 513:03110669 875:04487394 683:03838899 889:04536866 881:04515003",
    "music_hard": "420:02787622 594:03495258 420:02787622 579:03452741 402:02676566 776:04141076 486:02992211 401:02672831 546:03272010 558:03372029",
}
SUBSETS = {name: [(int(index), f"n{wnid}") for index, wnid in (pair.split(":") for pair in text.split())] for name, text in LISTS.items()}
SUBSETS["music_hard_nine"] = SUBSETS["music_hard"][1:]
COMP_DD = ("birds", "cars", "dogs", "fish", "snake", "insect", "round", "music")  # each easy and hard
SPLITS = {"train": "train", "test": "val"}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
FOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
ANSWERS = "LOC_val_solution.csv"  # of validation images that lie in one folder: their classes


def labels_of(subset):
    """{WordNet id: label}; of a class that is named twice, the later."""
    return {wnid: label for label, (_, wnid) in enumerate(SUBSETS[subset])}


def pictures(folder, subset, split):
    """Yield (name, bytes, label) of one split of a subset, in order of classes and names.

    folder: holds train/WNID/* and val/WNID/* (or below ILSVRC/Data/CLS-LOC), or ILSVRC's two tar files; validation images may lie in one
    folder or archive if LOC_val_solution.csv is beside it. FileError names all that was looked for.
    """
    if folder is None:
        raise FileError("runtime.imagenet_dir (or the variable DISTILLERY_IMAGENET): not given; name the folder of your copy of ImageNet-1K")
    folder, labels = Path(folder).expanduser(), labels_of(subset)
    found = next((folder / inner / SPLITS[split] for inner in FOLDERS if (folder / inner / SPLITS[split]).is_dir()), None)
    answers = next((path for path in (folder / ANSWERS, folder / "ILSVRC" / ANSWERS) if path.is_file()), None)
    if found is not None and any((found / wnid).is_dir() for wnid in labels):
        for wnid in missing_none(found, labels):
            for path in sorted((found / wnid).iterdir()):
                yield path, path.read_bytes(), labels[wnid]
    elif found is not None and split == "test" and answers:
        for name, wnid in answered(answers, labels):
            yield name, (found / f"{name}.JPEG").read_bytes(), labels[wnid]
    elif (folder / ARCHIVES[split]).is_file() and (split == "train" or answers):
        yield from archived(folder / ARCHIVES[split], labels, dict(answered(answers, labels)) if split == "test" else None)
    else:
        looked = [str(folder / inner / SPLITS[split] / "WNID") for inner in FOLDERS] + [str(folder / ARCHIVES[split])]
        beside = f"; images of {SPLITS[split]} in one folder or archive need {folder / ANSWERS} beside them" if split == "test" else ""
        raise FileError(f"{folder}: no {split} images of ImageNet-1K; looked for {', '.join(looked)}{beside}")


def missing_none(folder, labels):
    """The classes, once each of them has a folder."""
    absent = [wnid for wnid in labels if not (folder / wnid).is_dir()]
    if absent:
        raise FileError(f"{folder}: has no folder of {', '.join(absent)}")
    return sorted(labels, key=labels.get)


def answered(path, labels):
    """(image, WordNet id) of the validation images of these classes, by the table that comes with them."""
    with open(path, newline="") as file:
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    return sorted((row for row in rows if row[1] in labels), key=lambda row: (labels[row[1]], row[0]))


def archived(path, labels, answers):
    """Pictures of an archive of one archive for each class; or, where `answers` tells their classes, of an archive of pictures."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).stem
                if answers is not None and name in answers:
                    yield name, archive.extractfile(member).read(), labels[answers[name]]
                elif answers is None and name in labels:
                    with tarfile.open(fileobj=archive.extractfile(member)) as inner:
                        for each in inner:
                            if each.isfile():
                                yield each.name, inner.extractfile(each).read(), labels[name]
    except tarfile.TarError as error:
        raise FileError(f"{path}: not a complete archive ({error})") from None


def squashed(data, resolution, antialias, name):
    """A picture (bytes) as uint8 (H, W, 3) of a square of `resolution`, whatever its own sides; bilinear."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{name}: not a readable picture ({type(error).__name__}: {error}); replace or remove it") from None
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=antialias)
    return x[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def read_subset(folder, subset, split, resolution, antialias):
    """Yield (image uint8 (H, W, 3), label) of one split."""
    for name, data, label in pictures(folder, subset, split):
        yield squashed(data, resolution, antialias, name), label
