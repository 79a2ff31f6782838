"""Endpoints without a dialect: whatever text their bodies hold, in any form."""
