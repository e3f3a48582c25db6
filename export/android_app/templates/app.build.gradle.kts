plugins {
    id("com.android.application")
}

android {
    namespace = "{{ package }}"
    compileSdk = {{ versions.sdk }}

    defaultConfig {
        applicationId = "{{ package }}"
        minSdk = {{ versions.min_sdk }} // LiteRT's
        targetSdk = {{ versions.sdk }}
        versionCode = 1
        versionName = "1.0"
    }

    // LiteRT maps the file into memory, so that it must not be compressed.
    androidResources { noCompress += "tflite" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation("{{ versions.litert }}")
    implementation("{{ versions.litert_gpu }}") // without this library, LiteRT refuses Accelerator.GPU
    implementation("androidx.activity:activity:{{ versions.activity }}")
    implementation("androidx.camera:camera-camera2:{{ versions.camera }}")
    implementation("androidx.camera:camera-lifecycle:{{ versions.camera }}")
    implementation("androidx.camera:camera-view:{{ versions.camera }}")
    testImplementation("junit:junit:4.13.2")
}
