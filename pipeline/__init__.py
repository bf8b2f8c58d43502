"""The offline pipeline: from slides, CT, reports and tables to stores."""
