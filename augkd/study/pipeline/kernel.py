"""Notebook kernels that are forked instead of started: see augkd/study/pipeline/warm.py."""

import os
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from augkd.study.pipeline.warm import fork


class ForkProvisioner(LocalProvisioner):
    """Entry point "augkd-fork" of jupyter_client.kernel_provisioners, which warm.py chooses."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if cmd[1:3] != ["-m", "ipykernel_launcher"]:  # not Python's
            return await super().launch_kernel(cmd, **kwargs)
        process = fork("augkd.study.pipeline.kernel", cmd[3:])
        self.process, self.pid = process, process.pid  # type: ignore[assignment]
        return self.connection_info


def main(arguments: list[str]) -> int:
    """Becomes a kernel: what a fork runs."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # Ctrl-C in the terminal is for the stage to pass on
    IPKernelApp.launch_instance(arguments)
    return 0
