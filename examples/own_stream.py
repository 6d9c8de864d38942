"""A network of one's own in a stream: every block learns from a loss of its own, one block ahead, or at the end.

Prints, after about fifteen seconds on one core,

    reach 1: 98.3 % of 360 held-out digits
    reach 2: 98.6 % of 360 held-out digits
    reach all: 98.3 % of 360 held-out digits
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import layerline
from layerline import Constant, Sgd, StreamRun, from_arrays


def fresh_network() -> nn.Sequential:
    """Three convolutions and a classifier, drawn from seed 0."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),  # block 1
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),  # block 2
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),  # block 3, with …
        nn.Linear(64 * 4 * 4, 10),  # … the classifier
    )


pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels * 255 / 16, dtype=torch.uint8).view(-1, 1, 8, 8)
train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)
data = from_arrays(train_x, train_y, test_x, test_y, name="my-digits")

for reach in (1, 2, "all"):
    run = StreamRun(reach=reach, optimizer=Sgd(lr=0.05), rate=Constant(), epochs=5, batch_size=64, threads=1)
    result = layerline.train(run, data=data, network=fresh_network())
    print(f"reach {reach}: {100 * result.values['test_accuracy']:.1f} % of {len(test_y)} held-out digits")
