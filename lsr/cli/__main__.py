"""torchrun --nproc-per-node N -m lsr.cli train …"""

from lsr.cli import app

if __name__ == "__main__":
    app()
