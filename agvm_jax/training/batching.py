"""How a global batch is shared out over devices and micro-batches.

The batch size in a config is the number of images in one optimizer step, on any number
of devices. Each replica (device) gets an equal share and works through it in
micro-batches of at most ``micro_batch_size`` images.

AGVM compares gradients of at least two groups. Replicas are groups; on a single device
the micro-batches are, so there are always at least two of them when AGVM is on.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The shape of one optimizer step.

    Attributes:
      batch_size: images a step, over all devices.
      replicas: devices.
      micro_batches: forward and backward passes a replica makes in a step.
      micro_batch_size: images in each of them.
    """

    batch_size: int
    replicas: int
    micro_batches: int
    micro_batch_size: int

    @property
    def images_per_pass(self) -> int:
        """Images that all replicas together take in at once."""
        return self.replicas * self.micro_batch_size

    def __str__(self) -> str:
        return (
            f"batch {self.batch_size} = {self.replicas} devices"
            f" x {self.micro_batches} micro-batches x {self.micro_batch_size} images"
        )


def plan_batches(
    batch_size: int,
    replicas: int,
    micro_batch_size: int = 0,
    *,
    estimator: str | None = None,
) -> BatchPlan:
    """Divides a batch, or says in one sentence why it cannot be divided.

    Args:
      batch_size: images a step, over all devices.
      replicas: number of devices.
      micro_batch_size: the most images a device takes at once; 0 for its whole share.
      estimator: how AGVM measures phi, which takes at least two groups: "halves" needs
        an even number of them, "norms" any. None when it is off.

    Raises:
      ValueError: a division leaves a remainder, or there are too few groups.
    """
    if batch_size < 1 or replicas < 1 or micro_batch_size < 0:
        raise ValueError(
            f"batch_size={batch_size}, devices={replicas} and"
            f" micro_batch_size={micro_batch_size} must be positive (0 micro-batch:"
            " the whole share of a device)."
        )
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        known = f"{below} or {below + replicas}" if below else f"{replicas}"
        raise ValueError(
            f"batch_size={batch_size} cannot be divided over {replicas} devices:"
            f" use {known}, or another number of devices."
        )
    share = batch_size // replicas
    size = min(micro_batch_size or share, share)
    if share % size:
        fitting = max(d for d in range(1, size + 1) if share % d == 0)
        raise ValueError(
            f"micro_batch_size={micro_batch_size} does not divide the {share} images"
            f" that each of {replicas} devices gets of batch_size={batch_size}:"
            f" use {fitting}, or a batch_size that is a multiple of"
            f" {replicas * size}."
        )
    micro = share // size
    if estimator and replicas == 1 and micro == 1:
        if share % 2:
            raise ValueError(
                f"AGVM compares two groups of gradients, and batch_size={batch_size} on"
                " one device makes only one: use an even batch_size, more devices, or"
                " --config.agvm.enabled=False."
            )
        size, micro = share // 2, 2
    if estimator == "halves" and replicas % 2 and micro % 2:
        raise ValueError(
            f"agvm.estimator='halves' needs an even number of devices or of"
            f" micro-batches, and there are {replicas} devices with {micro}"
            " micro-batches each: use --config.agvm.estimator=norms, which takes"
            " any number, or another micro_batch_size."
        )
    return BatchPlan(batch_size, replicas, micro, size)
