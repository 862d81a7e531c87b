# Run with CLI
python train.py fit --model.lr=1e-3 --data.batch_size=64 --trainer.max_epochs=100

# Generate config file
python train.py fit --print_config > config.yaml

# Run from config
python train.py fit --config config.yaml

# Override config values
python train.py fit --config config.yaml --trainer.max_epochs=200
