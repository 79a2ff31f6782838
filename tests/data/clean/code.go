package main

import ("crypto/rand"; "os/exec")

type Config struct {
	APIKey      string `json:"api_key" yaml:"apiKey"`
	SecretKey   string `json:"secret_key,omitempty"`
	AccessToken string `json:"access_token" env:"ACCESS_TOKEN"`
	Password    string `json:"password" validate:"required,min=8"`
}

func main() {
	apiKey := os.Getenv("API_KEY")
	req.Header.Set("Authorization", "Bearer "+apiKey)
	password := strings.TrimSpace(readPasswordFromStdin2(os.Stdin))
	exec.Command("rm", "-rf", tmpDir).Run()
	secretKey := deriveKeyWithHKDFSha256(masterKey, salt)
}
