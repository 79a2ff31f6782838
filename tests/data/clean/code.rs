let api_key = std::env::var("API_KEY").expect("API_KEY");
let password: Secret<String> = Secret::new(rpassword::prompt_password("Password: ")?);
let secret_key = SigningKey::generate(&mut OsRng);
#[serde(rename = "access_token")] access_token: String,
let token = Token::builder().access_token(AccessToken2::from_str(&s)?).build();
