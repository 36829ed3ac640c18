"""ResNet-18 on two classes of photographs: train the head, save the weights, fine-tune everything, your own loss.

python examples/tutorial_3.py PHOTOS        a folder of class folders, or with train/ and val/ of them
"""

import argparse

import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

import frostline

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("photos")
arguments.add_argument("--weights", default="pretrained", help="pretrained, none or a file")
arguments.add_argument("--image-size", type=int)
arguments.add_argument("--epochs", type=int, default=5)
asked = arguments.parse_args()
resnet = {"backbone": "torchvision:resnet18", "weights": asked.weights, "image_size": asked.image_size}

# Feature extraction and then fine-tuning, as one plan: the head is solved, then everything trains a little.
run = frostline.fit(asked.photos, plan="full", epochs=asked.epochs, optimizer="sgd", lr=0.001, **resnet)
print(f"full plan: validation accuracy {run.metrics['valid']['accuracy']:.4f}")

# The weights are a plain state dict under torchvision's own names.
state = load_file(run.path / "model" / "model.safetensors")
bare = resnet18(num_classes=len(run.classes)).eval()
bare.load_state_dict(state)
torch.save(bare.state_dict(), run.path / "resnet18.pth")
images = torch.randn(2, 3, 64, 64)
same = torch.allclose(bare(images), frostline.load(run).model.cpu()(images), atol=1e-5)
print(f"the bare network gives the same logits: {same}")


# A new loss for the new task: any function of logits and targets; or by name, loss="focal", label_smoothing=0.1 …
def careful(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that makes sure answers a little dear (Pereyra et al. 2017)."""
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return torch.nn.functional.cross_entropy(logits, targets) - 0.1 * entropy.mean()


head = frostline.Phase("head", epochs=asked.epochs, lr=0.001)
run = frostline.fit(asked.photos, plan=[head], loss=careful, **resnet)
print(f"own loss: validation accuracy {run.metrics['valid']['accuracy']:.4f}")
