"""What follows a training: fine-tuning, distillation, new tasks, merging, adversaries of task gradients."""
