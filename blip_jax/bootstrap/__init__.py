"""The whole loop: pre-train, fine-tune a captioner and a filter, CapFilt, pre-train again."""
