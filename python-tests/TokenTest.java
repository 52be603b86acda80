import java.security.*;
import java.security.spec.*;
import java.util.Arrays;
import javax.crypto.*;
import javax.crypto.spec.*;

/** What a Java program does with a token through SunPKCS11. Prints the name of each thing that worked. */
public class TokenTest {
    static void check(String name, boolean worked) {
        if (!worked) throw new AssertionError(name);
        System.out.println(name);
    }

    static boolean signs(Provider token, String keys, int size, String algorithm, AlgorithmParameterSpec spec)
            throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(keys, token);
        generator.initialize(size);
        KeyPair pair = generator.generateKeyPair();
        Signature signer = Signature.getInstance(algorithm, token);
        if (spec != null) signer.setParameter(spec);
        signer.initSign(pair.getPrivate());
        signer.update("message".getBytes());
        byte[] signature = signer.sign();
        // Verified by Java's own implementation.
        PublicKey open = KeyFactory.getInstance(keys).generatePublic(new X509EncodedKeySpec(pair.getPublic().getEncoded()));
        Signature verifier = Signature.getInstance(algorithm);
        if (spec != null) verifier.setParameter(spec);
        verifier.initVerify(open);
        verifier.update("message".getBytes());
        return verifier.verify(signature);
    }

    static boolean encrypts(Provider token, String mode, AlgorithmParameterSpec spec) throws Exception {
        KeyGenerator generator = KeyGenerator.getInstance("AES", token);
        generator.init(256);
        SecretKey key = generator.generateKey();
        Cipher cipher = Cipher.getInstance(mode, token);
        cipher.init(Cipher.ENCRYPT_MODE, key, spec);
        byte[] sealed = cipher.doFinal("hello".getBytes());
        cipher = Cipher.getInstance(mode, token);
        cipher.init(Cipher.DECRYPT_MODE, key, spec);
        return Arrays.equals(cipher.doFinal(sealed), "hello".getBytes());
    }

    public static void main(String[] args) throws Exception {
        Provider token = Security.getProvider("SunPKCS11").configure(args[0]);
        Security.addProvider(token);
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, args[1].toCharArray());

        check("RSA", signs(token, "RSA", 2048, "SHA256withRSA", null));
        check("RSASSA-PSS", signs(token, "RSA", 2048, "RSASSA-PSS",
                new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1)));
        check("EC", signs(token, "EC", 256, "SHA256withECDSA", null));
        check("GCM", encrypts(token, "AES/GCM/NoPadding", new GCMParameterSpec(128, new byte[12])));
        check("CBC", encrypts(token, "AES/CBC/PKCS5Padding", new IvParameterSpec(new byte[16])));

        SecretKeySpec raw = new SecretKeySpec(new byte[32], "HmacSHA256");
        Mac ours = Mac.getInstance("HmacSHA256", token), theirs = Mac.getInstance("HmacSHA256", "SunJCE");
        ours.init(raw);
        theirs.init(raw);
        check("HMAC", Arrays.equals(ours.doFinal("x".getBytes()), theirs.doFinal("x".getBytes())));
        check("SHA-256", Arrays.equals(MessageDigest.getInstance("SHA-256", token).digest("x".getBytes()),
                MessageDigest.getInstance("SHA-256", "SUN").digest("x".getBytes())));

        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", token);
        generator.initialize(256);
        KeyPair one = generator.generateKeyPair(), two = generator.generateKeyPair();
        byte[][] secrets = new byte[2][];
        for (int i = 0; i < 2; i++) {
            KeyAgreement agreement = KeyAgreement.getInstance("ECDH", token);
            agreement.init(i == 0 ? one.getPrivate() : two.getPrivate());
            agreement.doPhase(i == 0 ? two.getPublic() : one.getPublic(), true);
            secrets[i] = agreement.generateSecret();
        }
        check("ECDH", secrets[0].length == 32 && Arrays.equals(secrets[0], secrets[1]));

        KeyGenerator aes = KeyGenerator.getInstance("AES", token);
        aes.init(128);
        store.setEntry("from-java", new KeyStore.SecretKeyEntry(aes.generateKey()), null);
        KeyStore again = KeyStore.getInstance("PKCS11", token);
        again.load(null, args[1].toCharArray());
        check("KeyStore", again.containsAlias("from-java"));
        again.deleteEntry("from-java");

        KeyPairGenerator rsa = KeyPairGenerator.getInstance("RSA", token);
        rsa.initialize(2048);
        KeyPair pair = rsa.generateKeyPair();
        Cipher cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
        cipher.init(Cipher.ENCRYPT_MODE, pair.getPublic());
        byte[] sealed = cipher.doFinal("hello".getBytes());
        cipher.init(Cipher.DECRYPT_MODE, pair.getPrivate());
        check("RSA-decrypt", Arrays.equals(cipher.doFinal(sealed), "hello".getBytes()));
    }
}
