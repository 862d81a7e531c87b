# train.py
from lightning.pytorch.cli import LightningCLI

def cli_main():
    cli = LightningCLI(MyModel, MyDataModule)

if __name__ == "__main__":
    cli_main()
