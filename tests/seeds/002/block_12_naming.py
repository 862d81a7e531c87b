# Use consistent naming patterns
writer.add_scalar("train/loss", train_loss, epoch)
writer.add_scalar("train/accuracy", train_acc, epoch)
writer.add_scalar("val/loss", val_loss, epoch)
writer.add_scalar("val/accuracy", val_acc, epoch)
writer.add_scalar("lr/learning_rate", current_lr, epoch)
writer.add_scalar("gpu/memory_usage", gpu_memory, epoch)
