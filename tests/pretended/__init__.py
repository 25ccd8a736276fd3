"""A pretended accelerator: tensors that claim to be on `cuda:0` or `mps:0` and refuse what such a device refuses.

    with pretend("cuda") as device, device.counting() as counted:
        SAETrainer(spec, start, torch.device("cuda")).step(y_BD.to("cuda"), lr)

The numbers are the CPU's, because every operation runs there.  The rules of devices, the waits of the host, the
launches and the live bytes are the pretended device's.  Triton kernels run under Triton's interpreter.  Nothing here
measures speed, and nothing stands for a run on a real GPU.
"""

from tests.pretended.counts import Counted
from tests.pretended.device import PretendedDevice, pretend
from tests.pretended.tensor import Pretended

__all__ = ["Counted", "Pretended", "PretendedDevice", "pretend"]
