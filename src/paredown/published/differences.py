"""What sets a run of a published row apart from what the paper did, where its sources are silent or disagree."""

from __future__ import annotations

from paredown.published import filters
from paredown.published.settings import BOTTLENECKS
from paredown.published.table import PublishedRow

PAIR = "g and p are not printed: they are found for the printed sparsity"
UNKNOWN_PROTOCOL = "the protocol of these networks is not in the text: GraSP's for CIFAR-10 is taken"
CODE = "Adam at 0.001 without weight decay, as the released code; the text says SGD at 0.001 and weight decay 5e-4"
OTHER_NETWORK = "the network is the released code's, of bottleneck blocks, not the paper's namesake"
OF_TRP = (
    "hyperparameters are not printed: TRP's code, truncating every 5 steps as its example, its threshold found for the"
    " printed speed-up"
)
BY_TRP = "hyperparameters are not printed: SVDs by energy at the printed speed-up, then four epochs, as TRP's authors"
SECOND_HAND = "on ImageNet TRP is known second-hand: ten epochs at 1e-4 from torchvision's weights"
RETRAINED = "from torchvision's weights; the rate of the four epochs on ImageNet is not known: 1e-4, TRP's"
AT_FLOPS = "hyperparameters are not printed: found for the printed change of FLOPs"
SHUFFLED = "the images of the search are shuffled; the authors' code reads them class by class"
FIXED_TOTAL = "the total cost in the search's loss is fixed; the authors' code replaces it every ten epochs"
LAST_DESIGN = "the design is that of the search's last epoch; the authors picked one from the log"

# rows of SSC's Tables 1 to 4 by other methods, most of them taken over from GraSP's paper
ONE_SHOT = "one shot; the rounds behind these numbers are not known"
TUNED = "finetuned for 150 epochs at 0.001 as EigenDamage's code; length and rate behind these numbers are not known"
WHOSE = "which code these numbers are of is not known: Mostafa and Wang's is taken"
GRASP_LIKE = "this row's configuration was not found: images as in the authors' others"
GRASP_IMAGENET = (
    "38 images of each class in batches of 20; the authors score 37,500 shuffled ones, also in batches of 20"
)
INTERSPACE = (
    "no code: one basis a layer, of unit kernels at first, not pruned; starting basis and sharing are not known"
)
FROM_IP = "perhaps of the paper on interspace pruning, whose protocol is not known: GraSP's is taken"
GRASP_READ = [  # the authors' configurations that name their images
    ("cifar10", "resnet32", 0.9),
    ("cifar100", "vgg19", 0.98),
    ("cifar100", "resnet32", 0.98),
    ("tiny_imagenet", "vgg19", 0.9),
    ("tiny_imagenet", "resnet32", 0.9),
]
MOVING = ("set", "dsr", "deep_r")
COUNTED = "these hardly fall from 85 to 95 %, as no other method's: their sparsity may be counted otherwise"
BY_METHOD = {
    "ssc": PAIR,
    "snip": "the images and weights scored are not known: GraSP's (10 a class on ImageNet), and those that train",
    "synflow": "whose numbers these are is not known: SynFlow's code, 100 rounds, under GraSP's protocol",
    "obd": f"the Fisher matrix's diagonal at sampled labels; {ONE_SHOT}; {TUNED}",
    "mlprune": f"{ONE_SHOT}; {TUNED}",
    "lt_original_init": ONE_SHOT,
    "lt_reset_epoch5": ONE_SHOT,
    "set": f"{WHOSE}; fraction and steps between moves are DSR's, theirs are not known",
    "dsr": f"{WHOSE}, with its steps for WRN-28-2; how many weights move at a time is not known: a tenth",
    "deep_r": f"{WHOSE}; noise and decay are not known: none, and 1e-5",
}


def differences(row: PublishedRow) -> list[str]:
    """Return what differs between the paper's training of `row` and ours, a phrase each; none: it runs as printed, and
    where the text is silent as the authors' code."""
    method, on_imagenet = row["method"], row["dataset"] == "imagenet"
    if row["paper"] == "ssc":
        return [UNKNOWN_PROTOCOL, *filters.differences(row)] if row["table"] == "5" else _of_ssc(row)
    if method == "svd_training":
        deep = [OTHER_NETWORK] if row["model"] in BOTTLENECKS else []
        return [] if on_imagenet else [CODE, *deep]
    if method == "trp":
        return [OF_TRP, *([SECOND_HAND] if on_imagenet else [])]
    if method in ("zhang2016", "jaderberg2014"):
        return [BY_TRP, *([RETRAINED] if on_imagenet else [])]
    if method == "svd_nas":
        return [LAST_DESIGN, SHUFFLED, *([FIXED_TOTAL] if row["model"] == "resnet18" else [])]
    return filters.differences(row) or ([AT_FLOPS] if method in ("alds", "lr_s2") else [])


def _of_ssc(row: PublishedRow) -> list[str]:
    """Return the differences of a row of SSC's Tables 1 to 4, many of them taken over from other papers."""
    method, on_imagenet = row["method"].removeprefix("ip_"), row["dataset"] == "imagenet"
    found = [BY_METHOD[method]] if method in BY_METHOD else []
    if method in MOVING and (row["dataset"], row["model"]) == ("tiny_imagenet", "resnet32"):
        found.append(COUNTED)
    if method == "grasp" and on_imagenet:
        found = [GRASP_IMAGENET]
    elif method == "grasp" and (row["dataset"], row["model"], row["sparsity"]) not in GRASP_READ:
        found = [GRASP_LIKE]
    if row["method"] != method:
        found.append(INTERSPACE)
    if on_imagenet and row["model"] == "resnet18" and method in ("snip", "grasp", "synflow"):
        found.append(FROM_IP)
    return found
