"""The material on its way into the homes. Root runs `delivery`; each side is named after the account that runs it."""
