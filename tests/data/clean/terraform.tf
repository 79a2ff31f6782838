variable "db_password" { sensitive = true }
resource "aws_db_instance" "main" {
  password          = var.db_password
  secret_key        = random_password.master_key_2024.result
  api_key           = data.aws_secretsmanager_secret_version.api2.secret_string
  kms_key_id        = "arn:aws:kms:eu-west-1:123456789012:key/9ecb8262-f2e3-49c4-9e7f-ba4776289a13"
}
