"""Networks: called as network(x, time, vector=None, context=None, context_mask=None), without knowledge of diffusion.

| module       | what                                                                        |
|--------------|-----------------------------------------------------------------------------|
| `unet`       | the U-Net of DDPM for signals, pictures and volumes                         |
| `dit`        | the diffusion transformer with adaLN-zero                                   |
| `reuse`      | a U-Net that keeps its deep features for a part of a trajectory             |
| `recompute`  | blocks that keep only their input for the gradient                          |
| `text`       | a transformer that encodes token ids, trained here or with BERT's weights   |
| `layers`     | time embedding, attention and initialisation, shared by the above           |
| `group_norm` | group normalisation and SiLU                                                |
| `fused`      | normalisation, convolution and additions to its result, as one step         |
| `kernels`    | what computes these steps: PyTorch, or a kernel if one is in use            |
| `native`     | the kernel in C++                                                           |
"""

from sfumato.networks.dit import DiT
from sfumato.networks.text import TextTransformer, load_bert
from sfumato.networks.unet import UNet

__all__ = ["DiT", "TextTransformer", "UNet", "load_bert"]
