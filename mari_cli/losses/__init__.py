"""What unlearning minimises: functions of tensors."""
